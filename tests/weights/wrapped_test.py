"""Weights in the files of trainers, interfaces and other libraries."""

import io
import json
import logging
import pathlib
import pickle
import random
import shutil

import ml_dtypes
import numpy as np
from pth_files import archive, F32, lazy
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import (
  copying,
  hub,
  pickled,
  pickling,
  pth,
  safetensors_files,
  weight_files,
)
from sana_jax.weights import folder as folders
from sana_jax.weights.pickled import Storage, Tensor
from sana_jax.weights.wrapped import EMA_KEYS, KEYS, without_prefixes

pytestmark = pytest.mark.fast

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
STATES = {
  'numpy': np.random.get_state(),
  'generator': np.random.default_rng(0),
  'legacy': np.random.RandomState(0),
  'python': random.getstate(),
  'step': np.int64(3),
  'array': np.ones(2000),
}


def trainer_file(path, keys, state):
  """A checkpoint with a tensor in each entry, and a generator's state."""
  content = b'\x80\x02}'
  members = {}
  for i, key in enumerate(keys):
    tensor = Tensor(Storage(F32, str(i), 3), 0, (3,), (1,))
    content += pickling.dumps({'w': tensor}, key)[3:-1]
    members[f'data/{i}'] = np.full(3, i, np.float32).tobytes()
  rng = pickle.dumps({'rng': state}, 2)
  assert rng[:5] == b'\x80\x02}q\x00'
  content += rng[5:-1] + b'.'
  archive(path, {'data.pkl': content} | members)
  return path


@pytest.mark.parametrize('protocol', range(2, 6))
@pytest.mark.parametrize('name', STATES)
def test_states_of_generators_are_skipped(name, protocol):
  data = pickle.dumps({'rng': STATES[name], 'after': 5}, protocol)
  found = pickled.load(io.BytesIO(data), len(data))
  assert found.value['after'] == 5


@pytest.mark.parametrize('name', STATES)
def test_a_trainer_s_file_gives_its_weights_and_their_ema(name, tmp_path):
  path = trainer_file(
    tmp_path / 'x.pth', ['state_dict', 'state_dict_ema'], STATES[name]
  )
  for ema in (False, True):
    found = pth.read(path, ema=ema)
    np.testing.assert_array_equal(found['w'].read(), [ema] * 3)


@pytest.mark.parametrize('key', [*KEYS, *EMA_KEYS])
def test_every_usual_entry_of_weights_is_read(key, tmp_path):
  ema = key in EMA_KEYS
  path = trainer_file(tmp_path / 'x.ckpt', ['other', key], 5)
  found = pth.read(path, ema=ema)
  np.testing.assert_array_equal(found['w'].read(), [1] * 3)


def test_a_file_without_ema_names_the_flag(tmp_path):
  path = trainer_file(tmp_path / 'x.pth', ['model'], 5)
  with pytest.raises(UserError) as error:
    pth.read(path, ema=True)
  assert error.value.key == '--ema'


@pytest.mark.parametrize(
  'prefix',
  [
    'module.',
    '_orig_mod.',
    'module._orig_mod.',
    '_orig_mod.module.',
    'model.diffusion_model.',
    'model.',
  ],
)
def test_prefixes_of_all_names_are_dropped(prefix):
  names = ['x_embedder.proj.weight', 'blocks.0.w']
  found = without_prefixes({prefix + n: i for i, n in enumerate(names)}, 'x')
  assert found == {n: i for i, n in enumerate(names)}


def test_a_prefix_of_some_names_is_a_part_of_them():
  tensors = {'module.w': 1, 'w': 2}
  assert without_prefixes(tensors, 'x') == tensors


def test_other_parts_beside_a_transformer_are_named(caplog):
  tensors = {'model.diffusion_model.w': 1, 'first_stage_model.v': 2}
  with caplog.at_level(logging.WARNING):
    assert without_prefixes(tensors, 'x') == {'w': 1}
  assert 'left out 1' in caplog.text and 'first_stage_model.v' in caplog.text


@pytest.fixture
def model(tmp_path):
  return shutil.copytree(GOLDEN / 'transformer', tmp_path / 'm/transformer')


STEM = 'diffusion_pytorch_model'


@pytest.mark.parametrize('half', ['fp16', 'bf16'])
def test_a_folder_with_only_half_precision_is_read(half, model, caplog):
  (model / f'{STEM}.safetensors').rename(model / f'{STEM}.{half}.safetensors')
  with caplog.at_level(logging.WARNING):
    folders.load(model.parent, 'transformer')
  assert f'{STEM}.{half}.safetensors is read' in caplog.text


def split(model, write, name):
  """Replaces the file of a part by two, and returns their weight_map."""
  tensors = weight_files.read(model, STEM)
  places = {}
  for number, keys in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
    file = name.format(f'{number + 1:05}-of-00002')
    write(model / file, {key: tensors[key] for key in keys})
    places |= dict.fromkeys(keys, file)
  return places


@pytest.mark.long
@pytest.mark.parametrize(
  'name, index, write',
  [
    (
      f'{STEM}.fp16-{{}}.safetensors',
      f'{STEM}.safetensors.index.fp16.json',
      safetensors_files.write_file,
    ),
    (
      f'{STEM}-{{}}.fp16.safetensors',
      f'{STEM}.safetensors.index.fp16.json',
      safetensors_files.write_file,
    ),
    (f'{STEM}-{{}}.bin', f'{STEM}.bin.index.json', pth.write),
  ],
)
def test_the_shards_of_a_variant_are_read(name, index, write, model, caplog):
  before = {k: x.read() for k, x in weight_files.read(model, STEM).items()}
  places = split(model, write, name)
  (model / f'{STEM}.safetensors').unlink()
  (model / index).write_text(json.dumps({'weight_map': places}))
  with caplog.at_level(logging.WARNING):
    after = weight_files.read(model, STEM)
  assert f'{index} is read' in caplog.text
  assert after.keys() == before.keys()
  for key, value in before.items():
    np.testing.assert_array_equal(after[key].read(), value)
  folders.load(model.parent, 'transformer')


def test_torchs_file_of_a_text_encoder_has_a_name_of_its_own(tmp_path):
  tensors = lazy({'w': np.arange(3, dtype=np.float32)})
  pth.write(tmp_path / 'pytorch_model.bin', tensors)
  assert weight_files.read(tmp_path, 'model').keys() == {'w'}
  with pytest.raises(UserError) as error:  # It would not be in the export.
    copying.check(tmp_path.parent, tmp_path.name)
  assert error.value.allowed == 'safetensors'


def test_an_index_names_files_of_its_own_format(model):
  (model / f'{STEM}.safetensors').unlink()
  index = {'weight_map': {'w': 'code.pkl'}}
  (model / f'{STEM}.bin.index.json').write_text(json.dumps(index))
  with pytest.raises(UserError) as error:
    weight_files.read(model, STEM)
  assert (error.value.key, error.value.value) == ('weight_map', 'code.pkl')


@pytest.mark.parametrize(
  'name', [f'{STEM}.bin', 'model.ckpt', 'other.safetensors']
)
def test_a_folder_with_other_formats_says_which(name, model):
  (model / f'{STEM}.safetensors').rename(model / name)
  with pytest.raises(UserError) as error:
    folders.load(model.parent, 'transformer')
  assert name in str(error.value)


@pytest.mark.parametrize('suffix', ['safetensors', 'pth', 'ckpt'])
def test_a_single_file_as_a_model_names_the_command(suffix, tmp_path):
  path = tmp_path / f'model.{suffix}'
  path.write_bytes(b'x')
  with pytest.raises(UserError) as error:
    hub.find(path)
  assert 'sana-jax convert' in str(error.value)
  assert error.value.key == '--model'
  assert error.value.value == str(path)


@pytest.mark.parametrize('dtype', ['float8_e4m3fn', 'float8_e5m2'])
def test_fp8_tensors_are_read(dtype, tmp_path):
  values = np.arange(8).astype(getattr(ml_dtypes, dtype))
  safetensors_files.write(tmp_path, 'x', lazy({'w': values}))
  found = weight_files.read(tmp_path, 'x')['w']
  assert found.dtype == values.dtype
  np.testing.assert_array_equal(
    found.read().astype(np.float32), values.astype(np.float32)
  )
