"""safetensors files: read lazily, written as a stream, refused when damaged."""

import errno
import json
import os
import re

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from sana_jax.errors import UserError
from sana_jax.weights import safetensors_files as files
from sana_jax.weights import weight_files
from sana_jax.weights.tensors import stored

pytestmark = pytest.mark.fast

DTYPES = (
  np.float32,
  np.float16,
  ml_dtypes.bfloat16,
  np.float64,
  np.int64,
  np.int32,
  np.uint8,
  np.bool_,
)


def some_tensors():
  rng = np.random.default_rng()
  draw = lambda *shape: rng.normal(size=shape) * 9
  out = {
    f'x.{i}.weight': draw(5, i + 1, 2).astype(dtype)
    for i, dtype in enumerate(DTYPES)
  }
  return out | {
    'scalar': np.asarray(7, np.int64),
    'empty': draw(0, 3),
    'view': draw(4, 6).T,
  }


def write(folder, tensors, **options):
  files.write(
    folder, 'model', {k: stored(x) for k, x in tensors.items()}, **options
  )


def assert_equal(got, want):
  assert got.keys() == want.keys()
  for key, value in want.items():
    np.testing.assert_array_equal(got[key], value, strict=True)


def test_a_written_file_is_read_back_by_the_reference_reader(tmp_path):
  tensors = some_tensors()
  write(tmp_path, tensors)
  path = tmp_path / 'model.safetensors'
  assert_equal(safetensors.numpy.load_file(path), tensors)
  assert_equal(
    {k: t.read() for k, t in weight_files.read(tmp_path, 'model').items()},
    tensors,
  )


def test_the_bytes_are_those_of_the_reference_writer(tmp_path):
  tensors = {k: np.ascontiguousarray(x) for k, x in some_tensors().items()}
  write(tmp_path, tensors)
  safetensors.numpy.save_file(
    tensors, tmp_path / 'theirs', metadata={'format': 'pt'}
  )
  assert (tmp_path / 'model.safetensors').read_bytes() == (
    tmp_path / 'theirs'
  ).read_bytes()


def test_large_models_are_sharded_with_an_index(tmp_path):
  tensors = some_tensors()
  write(tmp_path, tensors, shard_bytes=200)
  parts = sorted(p.name for p in tmp_path.glob('*.safetensors'))
  assert len(parts) > 2 and parts[0].startswith('model-00001-of-0')
  index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
  assert index['metadata']['total_size'] == sum(
    x.nbytes for x in tensors.values()
  )
  assert set(index['weight_map'].values()) == set(parts)
  assert_equal(
    {k: t.read() for k, t in weight_files.read(tmp_path, 'model').items()},
    tensors,
  )


def test_rows_are_read_without_the_rest(tmp_path):
  tensors = some_tensors()
  write(tmp_path, tensors)
  got = weight_files.read(tmp_path, 'model')
  for key in ('x.0.weight', 'x.2.weight', 'view'):
    np.testing.assert_array_equal(
      got[key].rows(1, 4).fetch(1, 2), tensors[key][2:3]
    )
  shape = got['x.3.weight'].shape
  flat = got['x.3.weight'].reshape((shape[0], -1 * -shape[1] * shape[2]))
  np.testing.assert_array_equal(
    flat.read(), tensors['x.3.weight'].reshape(shape[0], -1)
  )


def test_a_failed_write_leaves_no_file(tmp_path):
  def fail(start, stop):
    raise OSError('the disk is gone')

  bad = stored(np.zeros((3, 2)))
  bad = type(bad)(bad.shape, bad.dtype, fail)
  with pytest.raises(OSError, match='the disk is gone'):
    files.write(tmp_path, 'model', {'good': stored(np.ones(2)), 'z': bad})
  assert not list(tmp_path.iterdir())


def test_an_index_that_disagrees_with_its_files_is_refused(tmp_path):
  write(tmp_path, some_tensors(), shard_bytes=200)
  index = tmp_path / 'model.safetensors.index.json'
  right = json.loads(index.read_text())
  for changed, value in (
    ({'scalar': None}, ['scalar']),
    ({'more': right['weight_map']['scalar']}, ['more']),
    ({'scalar': '../elsewhere'}, '../elsewhere'),
  ):
    places = {k: v for k, v in (right['weight_map'] | changed).items() if v}
    index.write_text(json.dumps({'weight_map': places}))
    with pytest.raises(UserError) as error:
      weight_files.read(tmp_path, 'model')
    assert (error.value.key, error.value.value) == ('weight_map', value)
    assert str(index) in str(error.value)


@pytest.mark.parametrize(
  'places',
  [
    {},
    [],
    {'a': 1},
    {'a': '..'},
    {'a': ''},
    {'a': 'x.bin'},
    {'a': 'x\0'},
    {'a': '/x.safetensors'},
    {'a': '\x1b.safetensors'},
    {f'{i}': f'{i}.safetensors' for i in range(1001)},
  ],
)
def test_an_index_that_names_no_files_of_its_folder_is_refused(
  tmp_path, places
):
  (tmp_path / 'model.safetensors.index.json').write_text(
    json.dumps({'weight_map': places})
  )
  with pytest.raises(UserError) as e:
    weight_files.read(tmp_path, 'model')
  assert e.value.key == 'weight_map' and 'index.json' in str(e.value)
  assert str(e.value).isprintable()


def test_a_tensor_in_a_file_that_the_index_does_not_name_is_refused(tmp_path):
  write(tmp_path, some_tensors(), shard_bytes=200)
  index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
  first, last = sorted(set(index['weight_map'].values()))[::5][:2]
  (tmp_path / first).write_bytes((tmp_path / last).read_bytes())
  with pytest.raises(UserError) as error:
    weight_files.read(tmp_path, 'model')
  assert error.value.key == 'weight_map'
  assert set(error.value.value) <= set(some_tensors())


def test_an_index_that_is_not_a_regular_file_does_not_block(tmp_path):
  write(tmp_path, some_tensors())
  os.mkfifo(tmp_path / 'model.safetensors.index.json')
  with pytest.raises(UserError) as error:
    weight_files.read(tmp_path, 'model')
  assert error.value.value == tmp_path / 'model.safetensors.index.json'
  assert error.value.__cause__.errno == errno.EINVAL


def test_a_file_of_more_tensors_than_a_model_has_is_refused(
  tmp_path, monkeypatch
):
  write(tmp_path, some_tensors())
  monkeypatch.setattr(files, 'MOST_TENSORS', 5)
  with pytest.raises(UserError) as error:
    weight_files.read(tmp_path, 'model')
  assert error.value.value == tmp_path / 'model.safetensors'
  assert re.search(r'\b5\b', str(error.value))


@pytest.mark.parametrize(
  'damage',
  [
    lambda x: x[:-1],
    lambda x: x[:200],
    lambda x: x[:4],
    lambda x: b'',
    lambda x: b'\xff' * 64,
    lambda x: x + b'more',
  ],
)
def test_a_damaged_file_is_a_user_error(tmp_path, damage):
  write(tmp_path, some_tensors())
  path = tmp_path / 'model.safetensors'
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(UserError) as error:
    weight_files.read(tmp_path, 'model')
  assert error.value.value == path and error.value.allowed is None


def test_a_missing_tensor_file_is_a_user_error(tmp_path):
  with pytest.raises(UserError) as error:
    weight_files.read(tmp_path, 'model')
  assert error.value.value == str(tmp_path)
  assert error.value.allowed == 'model.safetensors'
