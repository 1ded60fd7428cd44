"""Weights in the files of trainers, interfaces and other libraries."""

import io
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
from sana_jax.weights import folder as folders
from sana_jax.weights import hub, pickled, pickling, pth, safetensors_files
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
  found = safetensors_files.read(tmp_path, 'x')['w']
  assert found.dtype == values.dtype
  np.testing.assert_array_equal(
    found.read().astype(np.float32), values.astype(np.float32)
  )
