"""Mistakes in the flags, prompt files and models of sana-jax sample."""

import json
import os
import shutil

import pytest


@pytest.mark.parametrize(
  'flag, value, shown',
  [
    ('--steps', '-3', "'-3'"),
    ('--steps', 'many', "'many'"),
    ('--num-images', '0', "'0'"),
    ('--batch-size', '1.5', "'1.5'"),
    ('--guidance-scale', 'nan', "'nan'"),
    ('--guidance-scale', '-1', "'-1'"),
    ('--seed', '-1', "'-1'"),
    ('--seed', str(2**31), f"'{2**31}'"),
    ('--dtype', 'int8', "'int8'"),
    ('--negative-prompt', '\udcff', "'\\udcff'"),
    ('--aspect-ratio', '9:1', "'9:1'"),
    ('--guidance-interval', '0.9:0.1', "'0.9:0.1'"),
    ('--pag-scale', '-1', "'-1'"),
    ('--flow-shift', '0', "'0'"),
    ('--decode', 'slices', "'slices'"),
    ('--mesh', '2x2', "'2x2'"),
    ('--kernels', 'fast', "'fast'"),
    ('--kernels', 'softmax=xla', "'softmax'"),
    ('--kernels', 'glumb_conv=triton', "'triton'"),
    ('--colour', 'red', "'--colour'"),
  ],
)
def test_a_bad_flag_is_reported_before_anything_is_written(
  flag, value, shown, refused, tiny_sana, tmp_path
):
  argv = 'sample', '--model', tiny_sana, '--prompt', 'a cat'
  message = refused(*argv, '--out', tmp_path / 'out', flag, value)
  assert message.key == flag
  assert repr(message.error.value) == shown
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'flags, key, value',
  [
    (['--sampler', 'ddim'], 'sampler', 'ddim'),
    (['--height', '33'], 'height', 33),
    (['--width', '2'], 'width', 2),
    (
      ['--aspect-ratio', '2:1', '--width', '32'],
      '--aspect-ratio',
      2.0,
    ),
    (['--mesh', 'rows=2'], 'mesh', 'rows'),
    (['--mesh', 'data=0'], 'mesh.data', {'data': 0}),
  ],
)
def test_what_the_model_does_not_support_is_reported(
  flags, key, value, refused, tiny_sana, tmp_path
):
  argv = 'sample', '--model', tiny_sana, '--prompt', 'a cat'
  error = refused(*argv, '--out', tmp_path / 'out', *flags).error
  assert (error.key, error.value) == (key, value)
  assert not (tmp_path / 'out').exists()


def test_a_backend_requested_by_name_never_falls_back(
  refused, tiny_sana, tmp_path
):
  argv = 'sample', '--model', tiny_sana, '--prompt', 'a cat'
  kernels = '--kernels', 'glumb_conv=mosaic_tpu'
  message = refused(*argv, '--out', tmp_path / 'out', *kernels)
  assert message.key == '--kernels'
  assert message.error.value == {'glumb_conv': 'mosaic_tpu'}
  assert 'cpu' in message


@pytest.mark.parametrize(
  'content, fact',
  [
    (b'', ''),
    (b' \n\n\t\n', ''),
    ('a cat'.encode('utf-16'), 'UTF-8'),
    (b'\xe4\n', 'line 1: prompt has the byte 0xe4'),
    (None, 'No such file or directory'),
  ],
)
def test_a_prompt_file_must_hold_prompts(
  content, fact, refused, tiny_sana, tmp_path
):
  file = tmp_path / 'prompts.txt'
  if content is not None:
    file.write_bytes(content)
  message = refused(
    'sample', '--model', tiny_sana, '--prompts', file, '--out', tmp_path / 'out'
  )
  assert (message.key, message.error.value) == ('--prompts', str(file))
  assert fact in message
  assert not (tmp_path / 'out').exists()


def test_an_empty_name_of_a_prompt_file_is_refused(refused, tmp_path):
  error = refused(
    'sample', '--model', 'shapes', '--prompts=', '--out', tmp_path / 'out'
  ).error
  assert (error.key, error.value) == ('--prompts', '')


def test_a_prompt_must_not_be_empty(refused, tiny_sana, tmp_path):
  message = refused(
    'sample', '--model', tiny_sana, '--prompt', ' ', '--out', tmp_path / 'out'
  )
  assert (message.key, message.error.value) == ('--prompt', '')


def cut(path):
  with path.open('r+b') as file:
    file.truncate(path.stat().st_size // 2)


def edit(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE = {
  'no index': (
    lambda m: (m / 'model_index.json').unlink(),
    'model_index.json',
  ),
  'index is no JSON': (
    lambda m: cut(m / 'model_index.json'),
    'model_index.json',
  ),
  'another pipeline': (
    lambda m: edit(m / 'model_index.json', _class_name='FluxPipeline'),
    "'FluxPipeline'",
  ),
  'no autoencoder': (
    lambda m: shutil.rmtree(m / 'vae'),
    'vae/config.json',
  ),
  'no weights': (
    lambda m: (m / 'text_encoder/model.safetensors').unlink(),
    'text_encoder/model.safetensors',
  ),
  'weights cut short': (
    lambda m: cut(m / 'transformer/diffusion_pytorch_model.safetensors'),
    'transformer/diffusion_pytorch_model.safetensors',
  ),
  'weights of other sizes': (
    lambda m: edit(m / 'transformer/config.json', num_layers=3),
    'blocks',
  ),
  'a width that is text': (
    lambda m: edit(m / 'transformer/config.json', num_layers='two'),
    'transformer/config.json',
  ),
  'a list too short': (
    lambda m: edit(m / 'vae/config.json', encoder_block_out_channels=[8, 8]),
    'encoder',
  ),
  'no tokenizer': (
    lambda m: (m / 'tokenizer/tokenizer.json').unlink(),
    'tokenizer.json',
  ),
  'tokenizer cut short': (
    lambda m: cut(m / 'tokenizer/tokenizer.json'),
    'tokenizer/tokenizer.json',
  ),
  'another scheduler': (
    lambda m: edit(m / 'scheduler/scheduler_config.json', _class_name='PNDM'),
    "'PNDM'",
  ),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_model_is_reported(damage, cli, refused, tiny_sana, tmp_path):
  harm, expected = DAMAGE[damage]
  model, out = tmp_path / 'model', tmp_path / 'out'
  shutil.copytree(tiny_sana, model)
  harm(model)
  argv = ['sample', '--model', model, '--prompt', 'x', '--out', out]
  # Weights that do not fit are a list, a line each.
  if damage == 'weights of other sizes':
    code, _, message = cli(*argv)
    assert code == 2
  else:
    message = refused(*argv)
  assert expected in message
  assert not out.exists()


def test_a_missing_model_is_reported(refused, tmp_path):
  message = refused(
    'sample',
    '--model',
    tmp_path / 'none',
    '--prompt',
    'x',
    '--out',
    tmp_path / 'out',
  )
  assert (message.key, message.error.value) == ('model', f'{tmp_path}/none')
  assert os.listdir(tmp_path) == []


def test_a_file_is_no_output_folder(refused, tiny_sana, tmp_path):
  (tmp_path / 'file').write_text('mine')
  for out in ('file', 'file/out'):
    message = refused(
      'sample', '--model', tiny_sana, '--prompt', 'x', '--out', tmp_path / out
    )
    assert (message.key, message.error.value) == ('--out', f'{tmp_path / out}')
    assert f'{tmp_path}/file is a file' in message
  assert (tmp_path / 'file').read_text() == 'mine'
