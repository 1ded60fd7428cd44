"""Torch checkpoints from before 1.6, valid and damaged."""

import pickle
import struct

import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import pickling, pth
from sana_jax.weights.pickled import Storage, Tensor

pytestmark = pytest.mark.fast

W = Tensor(Storage(np.dtype(np.float32), '0', 12), 2, (2, 3), (1, 4))


def legacy(path, tensors, keys=('0',), version=1001, little=True, data=None):
  """A file as torch wrote it before 1.6, made by Python's pickler."""
  order = '<' if little else '>'
  data = np.arange(12, dtype=f'{order}f4') if data is None else data
  magic = 0x1950A86A20F9469CFC6C
  content = pickling.dumps(tensors, 'state_dict')
  # Its persistent ids have a sixth item, None.
  content = content.replace(
    pickle.TUPLE + pickle.BINPERSID,
    pickle.NONE + pickle.TUPLE + pickle.BINPERSID,
  )
  path.write_bytes(
    b''.join(
      [
        *(
          pickle.dumps(x, 2)
          for x in (magic, version, {'little_endian': little})
        ),
        content,
        pickle.dumps(list(keys), 2),
        struct.pack(f'{order}q', len(data)),
        data.tobytes(),
      ]
    )
  )
  return path


@pytest.mark.parametrize('little', [True, False])
def test_files_from_before_the_zip_format_are_read(tmp_path, little):
  path = legacy(tmp_path / 'x.pth', {'w': W}, little=little)
  got = pth.read(path)['w']
  # Element (i, j) is at 2 + i + 4 j of 0, 1, 2, ...
  np.testing.assert_array_equal(got.read(), [[2, 6, 10], [3, 7, 11]])


@pytest.mark.parametrize(
  'changes, key, allowed',
  [
    ({'version': 1002}, 'version', (1001,)),
    ({'keys': ['1']}, '1', ['0']),
    ({'keys': ['0', '0']}, '0', '8 bytes or more'),
    ({'data': np.arange(3, dtype='f4')}, 'w', '48 bytes'),
  ],
)
def test_damage_of_an_old_file_is_reported(tmp_path, changes, key, allowed):
  with pytest.raises(UserError) as error:
    pth.read(legacy(tmp_path / 'x.pth', {'w': W}, **changes))
  assert (error.value.key, error.value.allowed) == (key, allowed)
  assert str(tmp_path / 'x.pth') in str(error.value)


def test_an_old_file_truncated_anywhere_is_a_user_error(tmp_path):
  whole = legacy(tmp_path / 'x.pth', {'w': W}).read_bytes()
  for end in range(10, len(whole), 7):
    (tmp_path / 'x.pth').write_bytes(whole[:end])
    with pytest.raises(UserError):
      pth.read(tmp_path / 'x.pth')
