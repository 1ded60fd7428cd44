"""Zip files with wrong members, and excessive sizes."""

import os
import struct
import zipfile

import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import pickled, pickling, pth, pth_zip
from sana_jax.weights.pickled import Storage, Tensor

pytestmark = pytest.mark.fast

F32 = np.dtype(np.float32)
DATA = np.arange(1000, dtype=np.float32).tobytes()


def write(path, tensors, members):
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('x/data.pkl', pickling.dumps(tensors, 'state_dict'))
    for name, data in members.items():
      archive.writestr(f'x/{name}', data)
  return path


def whole(key):
  return Tensor(Storage(F32, key, 1000), 0, (1000,), (1,))


def edited(path, old, new, times=1):
  data = path.read_bytes()
  assert data.count(old) == times
  path.write_bytes(data.replace(old, new))


def test_members_that_overlap_are_refused(tmp_path):
  path = write(
    tmp_path / 'x.pth',
    {str(i): whole(str(i)) for i in range(2)},
    {'data/0': DATA, 'data/1': DATA},
  )
  assert len(pth.read(path)) == 2
  with zipfile.ZipFile(path) as archive:
    first, second = (
      struct.pack('<I', archive.getinfo(f'x/data/{i}').header_offset)
      + f'x/data/{i}'.encode()
      for i in range(2)
    )
  edited(path, second, first[:4] + second[4:])
  with pytest.raises(UserError) as error:
    pth.read(path)
  assert (error.value.key, error.value.value) == ('data', path)
  assert error.value.allowed == 'separate members'


def test_two_members_of_one_name_are_refused(tmp_path):
  path = write(
    tmp_path / 'x.pth', {'w': whole('0')}, {'data/0': DATA, 'data/1': DATA}
  )
  edited(path, b'x/data/1', b'x/data/0', times=2)
  with pytest.raises(UserError) as error:
    pth.read(path)
  assert (error.value.key, error.value.value) == ('x/data/0', path)
  assert error.value.allowed == 'one member'


def test_tensors_may_share_a_storage_a_limited_number_of_times(tmp_path):
  share = lambda n: write(
    tmp_path / 'x.pth', {str(i): whole('0') for i in range(n)}, {'data/0': DATA}
  )
  assert len(pth.read(share(3))) == 3
  with pytest.raises(UserError) as error:
    pth.read(share(1000))
  assert (error.value.key, error.value.value) == ('tensors', 1000 * len(DATA))


def test_a_pickle_that_does_not_match_its_checksum_is_refused(tmp_path):
  path = write(tmp_path / 'x.pth', {'w': whole('0')}, {'data/0': DATA})
  edited(path, b'state_dict', b'state_dicx')
  with pytest.raises(UserError) as error:
    pth.read(path)
  assert (error.value.key, error.value.value) == ('x/data.pkl', path)
  assert type(error.value.allowed[0]) is int


def test_sizes_of_directory_and_pickle_are_bounded(tmp_path, monkeypatch):
  path = write(tmp_path / 'x.pth', {'w': whole('0')}, {'data/0': DATA})
  monkeypatch.setattr(pth_zip, '_PICKLE_BYTES', 100)
  with pytest.raises(UserError) as error:
    pth.read(path)
  assert (error.value.key, error.value.value) == ('x/data.pkl', path)
  assert error.value.allowed == '100 bytes or fewer'
  data = path.read_bytes()
  place = data.rindex(b'PK\5\6') + 12
  path.write_bytes(data[:place] + struct.pack('<L', 2**31) + data[place + 4 :])
  with pytest.raises(UserError) as error:
    pth.read(path)
  assert error.value.value == path
  monkeypatch.setattr(pth_zip, '_DIRECTORY_BYTES', 10)
  path.write_bytes(data)
  with pytest.raises(UserError) as error:
    pth.read(path)
  assert (error.value.key, error.value.value) == ('directory', path)
  assert error.value.allowed == '10 bytes or fewer'


def test_a_storage_of_another_dtype_is_refused(tmp_path):
  mixed = {
    'a': whole('0'),
    'b': Tensor(
      pickled.Storage(np.dtype(np.int16), '0', 1000), 0, (1000,), (1,)
    ),
  }
  with pytest.raises(UserError) as error:
    pth.read(write(tmp_path / 'x.pth', mixed, {'data/0': DATA}))
  assert (error.value.key, error.value.value, error.value.allowed) == (
    'b',
    4000,
    '2000 bytes',
  )


def test_a_file_of_more_tensors_than_a_model_has_is_refused(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(pth, 'MOST_TENSORS', 2)
  path = write(
    tmp_path / 'x.pth', {str(i): whole('0') for i in range(3)}, {'data/0': DATA}
  )
  with pytest.raises(UserError) as error:
    pth.read(path)
  assert (error.value.key, error.value.value) == ('tensors', 3)
  assert error.value.allowed == '2 or fewer'


def test_a_fifo_a_folder_and_a_device_do_not_block(tmp_path):
  os.mkfifo(tmp_path / 'fifo.pth')
  (tmp_path / 'folder.pth').mkdir()
  (tmp_path / 'zero.pth').symlink_to('/dev/zero')
  for path in tmp_path.iterdir():
    with pytest.raises(UserError) as error:
      pth.read(path)
    assert error.value.value == path and error.value.allowed is None
