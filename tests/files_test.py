"""Bounded reads, atomic writes, and one type of error for any bad JSON."""

import errno
import os
import subprocess
import sys
import threading

import pytest

from sana_jax import files
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  'data',
  [
    b'{',
    b'\xff{}',
    b'[' * 100_000,
    b'1' * 5_000,
    b'{"a": "\\ud83d"}',
    b'',
    b'{}{}',
    b'{"a": ' * 100_000,
  ],
  ids=lambda d: str(d[:12]),
)
def test_bad_json_is_a_value_error(data):
  with pytest.raises(ValueError):
    files.parse_json(data)


def test_good_json_is_read_with_its_byte_order_mark_and_infinity():
  assert files.parse_json(b'\xef\xbb\xbf{"a": -Infinity}') == {
    'a': float('-inf')
  }
  assert files.parse_json('"\\ud83d\\udc31"') == '\N{CAT FACE}'


def test_a_file_of_another_json_type_is_refused(tmp_path):
  path = tmp_path / 'x.json'
  path.write_text('[1]')
  assert files.read_json(path, list) == [1]
  with pytest.raises(UserError):
    files.read_json(path)
  with pytest.raises(FileNotFoundError):
    files.read_json(tmp_path / 'absent.json')


def test_a_fifo_and_a_device_are_refused_at_once(tmp_path):
  os.mkfifo(tmp_path / 'fifo')
  for path in tmp_path / 'fifo', '/dev/zero':
    with pytest.raises(OSError) as error:
      files.read_bytes(path, 10)
    assert error.value.errno == errno.EINVAL
    with pytest.raises(UserError):
      files.read_json(path)
  with pytest.raises(IsADirectoryError):
    files.read_bytes(tmp_path, 10)


def test_a_file_larger_than_the_bound_is_refused(tmp_path):
  (tmp_path / 'x').write_bytes(b'12345')
  assert files.read_bytes(tmp_path / 'x', 5) == b'12345'
  with pytest.raises(OSError) as error:
    files.read_bytes(tmp_path / 'x', 4)
  assert error.value.errno == errno.EFBIG


def test_a_failed_write_leaves_the_file_unchanged(tmp_path):
  path = tmp_path / 'x'
  files.write_text(path, 'old')
  with pytest.raises(ZeroDivisionError), files.atomically(path) as part:
    part.write_text('half')
    raise ZeroDivisionError
  assert path.read_text() == 'old'
  assert os.listdir(tmp_path) == ['x']


def test_a_failed_quick_write_leaves_the_file_unchanged(tmp_path):
  path = tmp_path / 'x'
  files.write_quickly(path, b'old')
  assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['x']
  with pytest.raises(TypeError):
    files.write_quickly(path, 'no bytes')
  assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['x']


def test_a_name_of_255_bytes_can_be_written(tmp_path):
  files.write_text(tmp_path / ('é' * 127), 'x')
  assert len(os.listdir(tmp_path)) == 1


def test_leftovers_of_a_killed_process_are_removed_by_the_next_write(tmp_path):
  code = (
    'import os, sys; from sana_jax import files\n'
    'with files.atomically(sys.argv[1]) as part:\n'
    '  part.write_text("half"); os.kill(os.getpid(), 9)'
  )
  path = tmp_path / 'x'
  subprocess.run([sys.executable, '-c', code, path], check=False)
  assert len(os.listdir(tmp_path)) == 1 and not path.exists()
  files.write_text(path, 'whole')
  assert os.listdir(tmp_path) == ['x']


def test_threads_that_write_one_file_leave_one_of_their_texts(tmp_path):
  path, texts = tmp_path / 'x', [str(i) * 10_000 for i in range(8)]
  threads = [
    threading.Thread(target=files.write_text, args=(path, text))
    for text in texts
    for _ in range(5)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert path.read_text() in texts
  assert os.listdir(tmp_path) == ['x']


def test_the_content_is_on_the_disk_before_the_file_has_its_name(
  tmp_path, monkeypatch
):
  done, sync, replace = [], os.fsync, os.replace

  def synced(descriptor):
    sync(descriptor)
    done.append(os.fstat(descriptor).st_ino)

  def replaced(source, target):
    replace(source, target)
    done.append('renamed')

  monkeypatch.setattr(os, 'fsync', synced)
  monkeypatch.setattr(os, 'replace', replaced)
  files.write_text(tmp_path / 'x', 'content')
  inodes = [path.stat().st_ino for path in (tmp_path / 'x', tmp_path)]
  assert done == [inodes[0], 'renamed', inodes[1]]
