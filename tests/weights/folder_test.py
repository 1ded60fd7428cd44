"""Model folders with sharded, missing and damaged files."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from sana_jax.errors import UserError
from sana_jax.weights import folder as folders
from sana_jax.weights import weight_files

pytestmark = pytest.mark.fast

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
STEM = 'diffusion_pytorch_model'


def read_tensors(folder, stem):
  return {k: t.read() for k, t in weight_files.read(folder, stem).items()}


@pytest.fixture
def copy(tmp_path):
  return shutil.copytree(GOLDEN, tmp_path / 'model')


def split(folder):
  """Shards transformer/ into two files and an index."""
  part = folder / 'transformer'
  tensors = read_tensors(part, STEM)
  (part / f'{STEM}.safetensors').unlink()
  names = [f'{STEM}-0000{i}-of-00002.safetensors' for i in (1, 2)]
  where = {key: names[i % 2] for i, key in enumerate(sorted(tensors))}
  for name in names:
    save_file({k: tensors[k] for k in where if where[k] == name}, part / name)
  index = part / f'{STEM}.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': where}))
  return part, names, index


def test_sharded_files_are_read_completely(copy):
  want = folders.load(copy, 'transformer').variables
  split(copy)
  jax.tree.map(
    np.testing.assert_array_equal,
    folders.load(copy, 'transformer').variables,
    want,
  )


@pytest.mark.long
@pytest.mark.parametrize('native', [False, True])
def test_a_decoder_loaded_alone_equals_that_of_the_model(copy, native):
  whole = folders.load(copy, 'vae')
  if native:
    folders.native.save(copy / 'vae', whole.variables)
  part = folders.load(copy, 'vae', only='decoder')
  assert part.variables.keys() == whole.variables.keys()
  for name, tree in part.variables.items():
    assert tree.keys() == {'decoder'}
    jax.tree.map(
      np.testing.assert_array_equal,
      tree['decoder'],
      whole.variables[name]['decoder'],
    )


def test_parts_that_are_not_loaded_are_checked(copy):
  path = copy / 'vae' / f'{STEM}.safetensors'
  tensors = read_tensors(copy / 'vae', STEM)
  save_file(
    {k: v for k, v in tensors.items() if k != 'encoder.conv_in.bias'}, path
  )
  with pytest.raises(UserError, match='encoder/conv_in/bias'):
    folders.load(copy, 'vae', only='decoder')


def test_a_missing_file_is_named(copy):
  part, names, _ = split(copy)
  (part / names[1]).unlink()
  with pytest.raises(UserError) as error:
    folders.load(copy, 'transformer')
  assert error.value.value == part / names[1]
  assert error.value.allowed == 'existing files'
  (copy / 'vae' / f'{STEM}.safetensors').unlink()
  with pytest.raises(UserError) as error:
    folders.load(copy, 'vae')
  assert error.value.value == str(copy / 'vae')
  assert error.value.allowed == f'{STEM}.safetensors'
  (copy / 'text_encoder' / 'config.json').unlink()
  with pytest.raises(UserError) as error:
    folders.load(copy, 'text_encoder')
  assert error.value.value == copy / 'text_encoder' / 'config.json'
  assert error.value.allowed == 'existing files'


def test_an_index_without_a_map_is_refused(copy):
  *_, index = split(copy)
  for bad in ({}, {'weight_map': ['a']}):
    index.write_text(json.dumps(bad))
    with pytest.raises(UserError) as error:
      folders.load(copy, 'transformer')
    assert (error.value.key, error.value.value) == ('weight_map', index)


@pytest.mark.parametrize(
  'damage',
  [lambda x: x[:-100], lambda x: x[:5], lambda x: b'', lambda x: b'\xff' * 40],
)
def test_a_damaged_file_is_named(copy, damage):
  path = copy / 'transformer' / f'{STEM}.safetensors'
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(UserError) as error:
    folders.load(copy, 'transformer')
  assert error.value.value == path and error.value.allowed is None


def test_bfloat16_files_are_read_and_cast(copy):
  path = copy / 'transformer' / f'{STEM}.safetensors'
  tensors = read_tensors(copy / 'transformer', STEM)
  save_file({k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()}, path)
  for dtype in (jnp.float32, jnp.bfloat16):
    params = folders.load(copy, 'transformer', dtype).variables['params']
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    np.testing.assert_array_equal(
      np.float32(params['head']['out']['bias']),
      np.float32(tensors['proj_out.bias'].astype(ml_dtypes.bfloat16)),
    )


def test_writing_gives_back_what_diffusers_wrote(copy, tmp_path):
  model = folders.load(copy, 'transformer')
  out = tmp_path / 'out'
  folders.write(out, 'transformer', model.module, model.variables)
  want = read_tensors(copy / 'transformer', STEM)
  got = read_tensors(out / 'transformer', STEM)
  assert got.keys() == want.keys()
  for key in want:
    np.testing.assert_array_equal(got[key], want[key], strict=True)
  again = folders.load(out, 'transformer')
  assert again.module == model.module


def test_the_index_names_the_parts_and_the_recommended_settings(tmp_path):
  folders.write_index(tmp_path, flow_shift=3.0, sampling={'steps': 12})
  index = folders.read_json(tmp_path / 'model_index.json')
  assert index['_sana_jax'] == {'steps': 12}
  published = folders.read_json(GOLDEN / 'model_index.json')
  parts = {k for k in published if k[0] != '_'}
  assert parts == {k for k in index if k[0] != '_'}
  assert all(index[k][1] == published[k][1] for k in parts)


def test_a_model_is_short_to_print_and_names_its_class_and_size():
  count = sum(
    x.size for x in read_tensors(GOLDEN / 'transformer', STEM).values()
  )
  model = folders.load(GOLDEN, 'transformer')
  assert repr(model) == f'Model(Sana, {count:,} parameters)'
  shapes = jax.eval_shape(lambda: model.variables)
  assert repr(model._replace(variables=shapes)) == repr(model)
