"""Files that change between the check of their layout and a read."""

import os

import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import pth, ranges
from sana_jax.weights import safetensors_files as files
from sana_jax.weights.tensors import stored

pytestmark = pytest.mark.fast

VALUES = np.arange(300.0).reshape(30, 10)


def by_safetensors(path):
  files.write_file(path, {'w': stored(VALUES)})
  return files.read_file(path)['w']


def by_pth(path):
  pth.write(path, {'w': stored(VALUES)})
  return pth.read(path)['w']


def cut(path):
  os.truncate(path, path.stat().st_size - 1000)


def cut_to_nothing(path):
  os.truncate(path, 0)


def grown(path):
  with open(path, 'ab') as file:
    file.write(b'more')


def written_to(path):
  status = path.stat()
  with open(path, 'r+b') as file:
    file.seek(-1, os.SEEK_END)
    file.write(b'x')
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def removed(path):
  path.unlink()


def now_a_fifo(path):
  path.unlink()
  os.mkfifo(path)


def now_a_device(path):
  path.unlink()
  path.symlink_to('/dev/zero')


@pytest.mark.parametrize(
  'change',
  [cut, cut_to_nothing, grown, written_to, removed, now_a_fifo, now_a_device],
)
@pytest.mark.parametrize('write', [by_safetensors, by_pth])
def test_a_file_that_changes_before_it_is_read_is_a_user_error(
  tmp_path, write, change
):
  tensor = write(tmp_path / 'x')
  np.testing.assert_array_equal(tensor.fetch(3, 5), VALUES[3:5], strict=True)
  change(tmp_path / 'x')
  with pytest.raises(UserError) as e:
    tensor.read()
  assert str(tmp_path / 'x') in str(e.value)


def test_a_read_past_the_end_is_an_error(tmp_path):
  path = tmp_path / 'x'
  path.write_bytes(b'12345678')
  with open(path, 'rb') as file:
    checked = ranges.checked(path, file)
  assert checked.read(2, 3, np.uint16).tobytes() == b'345678'
  swapped = checked.read(2, 3, np.uint16, swapped=True)
  assert swapped.tobytes() == b'436587'
  with pytest.raises(UserError):
    checked.read(4, 3, np.uint16)
