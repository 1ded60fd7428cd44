"""sana-jax sample: pictures that say how they were made, or one sentence."""

import contextlib
import json
import os
import resource
import shutil
import signal
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from sana_jax.version import __version__

PROMPTS = ('a red circle', 'two blue squares over ä cat')


def pictures(folder):
  found = {}
  for path in sorted(folder.glob('0*.png')):
    with Image.open(path) as image:
      found[path.name] = np.asarray(image)
  return found


@pytest.fixture(scope='module')
def made(tmp_path_factory, tiny_sana):
  """A folder of two pictures of each of two prompts."""
  from sana_jax.launch import cli

  folder = tmp_path_factory.mktemp('sample')
  prompts = folder / 'prompts.txt'
  prompts.write_text('\n'.join(PROMPTS) + '\n\n', encoding='utf-8')
  argv = [
    'sample',
    '--model',
    str(tiny_sana),
    '--prompts',
    str(prompts),
    '--num-images',
    '2',
    '--steps',
    '2',
    '--seed',
    '5',
    '--out',
  ]
  assert cli.main([*argv, str(folder / 'out')]) == 0
  return argv, folder / 'out'


def test_every_picture_says_how_it_was_made(made, tiny_sana):
  _, out = made
  names = sorted(pictures(out))
  assert names == [
    '00000-0-a-red-circle.png',
    '00000-1-a-red-circle.png',
    '00001-0-two-blue-squares-over-cat.png',
    '00001-1-two-blue-squares-over-cat.png',
  ]
  with Image.open(out / names[3]) as image:
    assert image.size == (32, 32)
    about = image.text
  assert about['prompt'] == PROMPTS[1]
  assert about['seed'] == '5'
  assert about['number'] == '1'
  assert about['steps'] == '2'
  assert about['guidance_scale'] == '4.5'
  assert about['model'] == str(tiny_sana)
  assert about['version'] == f'sana_jax {__version__}'


def test_the_list_and_the_sheet_hold_every_picture(made):
  _, out = made
  lines = [
    json.loads(x)
    for x in (out / 'results.jsonl').read_text(encoding='utf-8').splitlines()
  ]
  assert [x['file'] for x in lines] == sorted(pictures(out))
  assert [x['prompt'] for x in lines] == [p for p in PROMPTS for _ in range(2)]
  # Two columns of pictures that are shown at 128 px.
  with Image.open(out / 'contact_sheet.png') as sheet:
    width, height = sheet.size
  assert width == 2 * (128 + 12) and height > width
  assert not [p for p in out.iterdir() if p.name.startswith('.')]


def test_the_same_command_writes_the_same_bytes(made, tmp_path, cli):
  argv, out = made
  assert cli(*argv, tmp_path)[0] == 0
  read = lambda folder: {p.name: p.read_bytes() for p in folder.iterdir()}
  assert read(tmp_path) == read(out)


def test_a_full_device_is_told(made, tmp_path, cli, monkeypatch):
  from sana_jax.inference.pipeline import Pipeline

  def fail(*_, **__):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')

  monkeypatch.setattr(Pipeline, 'draw', fail)
  code, _, err = cli(*made[0], tmp_path / 'full')
  assert code == 2
  assert err.endswith(
    'lower --batch-size, --height or --width, or give --decode=strips.\n'
  )


def test_the_batch_size_does_not_change_pictures(made, tmp_path, cli):
  argv, out = made
  assert cli(*argv, tmp_path, '--batch-size', '3')[0] == 0
  want, got = pictures(out), pictures(tmp_path)
  assert want.keys() == got.keys()
  for name in want:  # To rounding.
    np.testing.assert_allclose(got[name].astype(int), want[name], atol=1)


@pytest.mark.parametrize(
  'flags',
  [
    ['--decode', 'strips'],
    ['--mesh', 'data=2,sequence=4'],
    ['--kernels', 'relu_linear_attention=xla_chunked,glumb_conv=xla_jvp'],
  ],
)
def test_how_the_work_is_cut_changes_no_picture(made, tmp_path, cli, flags):
  argv, out = made
  assert cli(*argv, tmp_path, *flags)[0] == 0
  for name, want in pictures(out).items():  # To rounding.
    np.testing.assert_allclose(
      pictures(tmp_path)[name].astype(int), want, atol=1
    )


def test_ways_of_guidance_are_in_the_metadata(made, tmp_path, cli):
  argv, out = made
  code, _, _ = cli(
    *argv,
    tmp_path,
    '--guidance-interval',
    '0.2:0.8',
    '--pag-scale',
    '2',
    '--apg-eta',
    '0.5',
    '--flow-shift',
    '4',
  )
  assert code == 0
  (name, image), *_ = pictures(tmp_path).items()
  assert not np.array_equal(image, pictures(out)[name])
  line = json.loads((tmp_path / 'results.jsonl').read_text().splitlines()[0])
  assert line['guidance'] == {
    'interval': [0.2, 0.8],
    'pag_scale': 2,
    'apg_eta': 0.5,
  }
  assert line['flow_shift'] == 4


def test_pictures_of_a_prompt_differ(made):
  first, second, *_ = pictures(made[1]).values()
  assert not np.array_equal(first, second)


def test_the_report_names_the_folder(made, tmp_path, cli):
  argv, _ = made
  code, out, err = cli(*argv, tmp_path / 'new' / 'out')
  assert code == 0
  assert out == (
    f'4 pictures are in {tmp_path}/new/out, all of them in '
    f'{tmp_path}/new/out/contact_sheet.png.\n'
  )
  assert 'Traceback' not in err


@pytest.mark.parametrize(
  'flags, said',
  [
    (
      ['--steps', '-3'],
      "--steps: '-3' is not allowed; give a whole number from 1",
    ),
    (['--steps', 'many'], "--steps: 'many' is not allowed"),
    (['--num-images', '0'], "--num-images: '0' is not allowed"),
    (['--batch-size', '1.5'], "--batch-size: '1.5' is not allowed"),
    (
      ['--guidance-scale', 'nan'],
      "--guidance-scale: 'nan' is not allowed; give a number of 0 or more",
    ),
    (['--guidance-scale', '-1'], "--guidance-scale: '-1'"),
    (
      ['--seed', '-1'],
      "--seed: '-1' is not allowed; give a whole number from 0",
    ),
    (['--seed', str(2**31)], f"--seed: '{2**31}' is not allowed"),
    (['--dtype', 'int8'], "--dtype: invalid choice: 'int8' (choose from"),
    (
      ['--sampler', 'ddim'],
      "The sampler is 'ddim'; allowed are euler, dpm++1m",
    ),
    (
      ['--height', '33'],
      'height is 33; it must be a multiple of the '
      "autoencoder's compression, 4, such as 32",
    ),
    (['--width', '2'], 'width is 2; it must be a multiple'),
    (
      ['--negative-prompt', '\udcff'],
      "--negative-prompt: '\\udcff' is not UTF-8",
    ),
    (['--aspect-ratio', '9:1'], "'9:1' is not allowed; give WIDTH:HEIGHT from"),
    (['--aspect-ratio', '2:1', '--width', '32'], 'give one of the two'),
    (
      ['--guidance-interval', '0.9:0.1'],
      "'0.9:0.1' is not allowed; give FROM:TO with 0 <= FROM < TO <= 1",
    ),
    (['--pag-scale', '-1'], "--pag-scale: '-1' is not allowed"),
    (['--flow-shift', '0'], "'0' is not allowed; give a number of more than 0"),
    (['--decode', 'slices'], "--decode: invalid choice: 'slices'"),
    (['--mesh', 'rows=2'], 'mesh has the axes rows; allowed are data, fsdp'),
    (['--mesh', 'data=0'], 'mesh is data=0; sizes are positive'),
    (['--mesh', '2x2'], "'2x2' is not allowed; give AXIS=N,AXIS=N"),
    (['--kernels', 'fast'], "'fast' is not allowed; give OP=NAME"),
    (
      ['--kernels', 'softmax=xla'],
      "--kernels has 'softmax'; allowed are relu_",
    ),
    (
      ['--kernels', 'glumb_conv=triton'],
      "--kernels has 'triton' for glumb_conv; "
      'allowed are mosaic_gpu, mosaic_tpu, xla_jvp, xla',
    ),
    (
      ['--colour', 'red'],
      "Unknown argument '--colour'; sana-jax sample has "
      '--apg-eta, --aspect-ratio, --batch-size, --candidates',
    ),
  ],
)
def test_a_bad_value_is_told_before_anything_is_written(
  flags, said, refused, tiny_sana, tmp_path
):
  out = tmp_path / 'out'
  message = refused(
    'sample', '--model', tiny_sana, '--prompt', 'a cat', '--out', out, *flags
  )
  assert said in message
  assert not out.exists()


def test_a_backend_asked_for_by_name_never_falls_back(
  refused, tiny_sana, tmp_path
):
  assert refused(
    'sample',
    '--model',
    tiny_sana,
    '--prompt',
    'a cat',
    '--out',
    tmp_path / 'out',
    '--kernels',
    'glumb_conv=mosaic_tpu',
  ) == (
    '--kernels asks for a backend that cannot run here: mosaic_tpu runs on '
    'TPUs, and this is for a cpu; ask for another, or for none to have the '
    'fastest that can.'
  )


@pytest.mark.parametrize(
  'content, said',
  [
    (b'', 'is empty; give one prompt a line'),
    (b' \n\n\t\n', 'is empty; give one prompt a line'),
    ('a cat'.encode('utf-16'), 'is UTF-16 or UTF-32; save it as UTF-8 text.'),
    (
      b'\xe4\n',
      'has no line that can be used: line 1: prompt has the byte 0xe4',
    ),
    (None, 'cannot be read (No such file or directory)'),
  ],
)
def test_a_prompt_file_must_hold_prompts(
  content, said, refused, tiny_sana, tmp_path
):
  file = tmp_path / 'prompts.txt'
  if content is not None:
    file.write_bytes(content)
  message = refused(
    'sample', '--model', tiny_sana, '--prompts', file, '--out', tmp_path / 'out'
  )
  assert message.startswith(f'--prompts={file} {said}')
  assert not (tmp_path / 'out').exists()


def test_an_empty_name_of_a_prompt_file_is_refused(refused, tmp_path):
  assert refused(
    'sample', '--model', 'shapes', '--prompts=', '--out', tmp_path / 'out'
  ).startswith("--prompts: '' is not allowed")


def test_a_prompt_must_say_something(refused, tiny_sana, tmp_path):
  message = refused(
    'sample', '--model', tiny_sana, '--prompt', ' ', '--out', tmp_path / 'out'
  )
  assert message == '--prompt is empty; say what to show.'


def cut(path):
  with path.open('r+b') as file:
    file.truncate(path.stat().st_size // 2)


def edit(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE = {
  'no index': (
    lambda m: (m / 'model_index.json').unlink(),
    'model_index.json is missing',
  ),
  'index is no JSON': (
    lambda m: cut(m / 'model_index.json'),
    'model_index.json cannot be read as JSON',
  ),
  'another pipeline': (
    lambda m: edit(m / 'model_index.json', _class_name='FluxPipeline'),
    "is a 'FluxPipeline'; SanaPipeline is supported",
  ),
  'no autoencoder': (
    lambda m: shutil.rmtree(m / 'vae'),
    'vae/config.json is missing',
  ),
  'no weights': (
    lambda m: (m / 'text_encoder/model.safetensors').unlink(),
    'model.safetensors is missing',
  ),
  'weights cut short': (
    lambda m: cut(m / 'transformer/diffusion_pytorch_model.safetensors'),
    'may be damaged or cut short',
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
    'tokenizer.json missing',
  ),
  'tokenizer cut short': (
    lambda m: cut(m / 'tokenizer/tokenizer.json'),
    'cannot be read',
  ),
  'another scheduler': (
    lambda m: edit(m / 'scheduler/scheduler_config.json', _class_name='PNDM'),
    "has the scheduler 'PNDM'",
  ),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_model_is_told(damage, cli, refused, tiny_sana, tmp_path):
  harm, said = DAMAGE[damage]
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
  assert said in message
  assert not out.exists()


def test_a_missing_model_is_told(refused, tmp_path):
  message = refused(
    'sample',
    '--model',
    tmp_path / 'none',
    '--prompt',
    'x',
    '--out',
    tmp_path / 'out',
  )
  assert f"There is no model folder '{tmp_path}/none'" in message
  assert 'hub id' in message
  assert os.listdir(tmp_path) == []


def test_a_file_is_no_output_folder(refused, tiny_sana, tmp_path):
  (tmp_path / 'file').write_text('mine')
  for out in ('file', 'file/out'):
    message = refused(
      'sample', '--model', tiny_sana, '--prompt', 'x', '--out', tmp_path / out
    )
    assert message == (
      f'--out={tmp_path / out} cannot be made: '
      f'{tmp_path}/file is a file; choose another folder.'
    )
  assert (tmp_path / 'file').read_text() == 'mine'


@contextlib.contextmanager
def full_disk(size):
  """No file grows beyond `size` bytes: EFBIG where a full disk has ENOSPC."""
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # Not half.
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    sys.dont_write_bytecode = kept
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize('size', [1000, 10_000])
def test_a_full_disk_leaves_no_half_file(size, made, cli, tmp_path):
  argv, whole = made
  out = tmp_path / 'new'
  with full_disk(size):
    code, said, err = cli(*argv, out)
  assert code == 2
  assert said == ''
  assert err.splitlines()[-1] == (
    f'sana-jax: error: --out={out} cannot be written (File too large); free '
    'some space or choose another folder.'
  )
  if size == 1000:  # Not even the first picture.
    assert not out.exists()
  else:  # Everything but the sheet, which is larger.
    assert sorted(p.name for p in out.iterdir()) == [
      *sorted(pictures(whole)),
      'results.jsonl',
    ]
    for path in out.iterdir():
      assert path.read_bytes() == (whole / path.name).read_bytes()
