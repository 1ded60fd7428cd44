"""Rows of columns, compared with the safetensors library."""

import json

import fsspec
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sana_jax.data.columns import Columns

pytestmark = pytest.mark.fast


@pytest.fixture
def columns():
  """Columns of every dtype, one of them empty."""
  rng = np.random.default_rng()
  return {
    'half': rng.normal(size=(7, 2, 3)).astype(jnp.bfloat16),
    'wide': rng.normal(size=(5, 4)).astype(np.float32),
    'bytes': rng.integers(0, 256, 11).astype(np.uint8),
    'none': np.zeros((0, 4), np.float32),
    'crc': rng.integers(0, 2**32, 3).astype(np.uint32),
  }


@pytest.fixture(params=['disk', 'memory'])
def folder(request, tmp_path, columns):
  """A local folder, and one that fsspec reads."""
  data = safetensors.numpy.save(columns)
  if request.param == 'disk':
    (tmp_path / 'a.safetensors').write_bytes(data)
    return str(tmp_path)
  with fsspec.open(f'memory://{tmp_path.name}/a.safetensors', 'wb') as file:
    file.write(data)
  return f'memory://{tmp_path.name}'


def test_rows_are_those_that_were_written(folder, columns):
  found = Columns(folder)
  assert set(found.names('a.safetensors')) == set(columns)
  for name, want in columns.items():
    whole = found.rows('a.safetensors', name)
    assert whole.dtype == want.dtype
    np.testing.assert_array_equal(whole, want)
    for start in range(len(want)):
      np.testing.assert_array_equal(
        found.rows('a.safetensors', name, start, start + 1),
        want[start : start + 1],
      )


def test_the_length_of_the_file_follows_from_its_header(folder, columns):
  assert Columns(folder).length('a.safetensors') == len(
    safetensors.numpy.save(columns)
  )


def test_missing_rows_are_errors(folder):
  found = Columns(folder)
  with pytest.raises(ValueError, match='wide.* 4 to 6'):
    found.rows('a.safetensors', 'wide', 4, 6)
  with pytest.raises(LookupError):
    found.rows('a.safetensors', 'other')
  with pytest.raises(OSError):
    found.rows('b.safetensors', 'wide')


@pytest.mark.parametrize('keep', [0, 4, 60, -1])
def test_a_truncated_file_is_an_error(tmp_path, columns, keep):
  data = safetensors.numpy.save({'wide': columns['wide']})
  (tmp_path / 'a.safetensors').write_bytes(data[:keep])
  with pytest.raises((OSError, ValueError)):
    Columns(str(tmp_path)).rows('a.safetensors', 'wide')


@pytest.mark.parametrize(
  'shape, offset',
  [
    ([-1, 4], 0),
    ([2**60, 2**60], 0),
    (['5', 4], 0),
    ([5, 4], -8),
    ([5, 4], 2**63),
    ([True, 4], 0),
    ([5.0, 4], 0),
    (None, 0),
    ([5, 4], None),
  ],
)
def test_invalid_sizes_are_errors(tmp_path, shape, offset):
  header = json.dumps(
    {'wide': {'dtype': 'F32', 'shape': shape, 'data_offsets': [offset, 80]}}
  ).encode()
  (tmp_path / 'a.safetensors').write_bytes(
    len(header).to_bytes(8, 'little') + header + bytes(80)
  )
  with pytest.raises((OSError, ValueError)):
    Columns(str(tmp_path)).rows('a.safetensors', 'wide')
