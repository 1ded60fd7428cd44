"""Bounded reads and atomic writes of files; JSON.

Untrusted files are read through this module: a fifo or a device in place of a
file is refused instead of blocking, a file larger than `most` is refused
instead of being read, and any invalid JSON, from a bad byte to a thousand
nested lists, raises one type of error.
"""

from collections.abc import Iterator
import contextlib
import errno
import itertools
import json
import os
import pathlib
import re
import socket
import stat
from typing import Any, BinaryIO

from sana_jax.errors import UserError

JSON_BYTES = 2**28  # Largest JSON file read; an index of 10**6 tensors fits.
_COUNTER = itertools.count()  # Makes the names of threads' files unique.
_HOST = re.sub(r'[^\w-]', '-', socket.gethostname())[:40]
_ESCAPED_SURROGATE = re.compile(r'\\u[dD][89a-fA-F]')


def open_regular(path: str | os.PathLike) -> BinaryIO:
  """Opens a regular file for reading; never blocks on a fifo.

  Raises:
    OSError: as `open` does, and EINVAL if it is not a regular file.
  """
  # Without O_NONBLOCK, opening a fifo waits for its writer.
  descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  try:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
      raise IsADirectoryError(errno.EISDIR, 'is a folder', os.fspath(path))
    if not stat.S_ISREG(mode):
      raise OSError(errno.EINVAL, 'is not a regular file', os.fspath(path))
    return os.fdopen(descriptor, 'rb')
  except BaseException:
    os.close(descriptor)
    raise


def read_bytes(path: str | os.PathLike, most: int) -> bytes:
  """The content of a regular file of at most `most` bytes.

  Raises:
    OSError: as `open_regular` does, and EFBIG if the file is larger.
  """
  with open_regular(path) as file:
    data = file.read(most + 1)
  if len(data) > most:
    raise OSError(errno.EFBIG, f'has more than {most} bytes', os.fspath(path))
  return data


def parse_json(data: str | bytes, *, halves: bool = False) -> Any:
  """The value of a JSON text; `NaN` and `-Infinity` are accepted.

  Args:
    halves: accept strings with half a surrogate pair.

  Raises:
    ValueError: an invalid byte or syntax, nesting that is too deep, an integer
      of over 4,300 digits, or a string with half a surrogate pair.
  """
  try:
    text = data if isinstance(data, str) else data.decode('utf-8-sig')
    value = json.loads(text)
    if not halves and _ESCAPED_SURROGATE.search(text):
      json.dumps(value, ensure_ascii=False).encode()
    return value
  except UnicodeEncodeError:
    raise ValueError('half a surrogate pair in a string') from None
  except UnicodeDecodeError as e:
    raise ValueError(f'not UTF-8 at byte {e.start}') from None
  except RecursionError:
    raise ValueError('nested too deep') from None


def read_json(
  path: str | os.PathLike, kind: type = dict, most: int = JSON_BYTES
) -> Any:
  """The JSON value of type `kind` in a local file of at most `most` bytes.

  Raises:
    FileNotFoundError: the file does not exist.
    UserError: it cannot be read, is not JSON, or contains another type.
  """
  try:
    value = parse_json(read_bytes(path, most))
  except FileNotFoundError:
    raise
  except (OSError, ValueError) as e:
    reason = e.strerror if isinstance(e, OSError) else e
    raise UserError(
      f'{path} cannot be read as JSON ({reason}).', value=path
    ) from e
  if not isinstance(value, kind):
    names = {dict: 'object', list: 'array'}
    raise UserError(
      f'{path} does not contain a JSON {names.get(kind, kind.__name__)}.',
      value=path,
      allowed=(kind,),
    )
  return value


@contextlib.contextmanager
def atomically(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields the path of a temporary file that replaces `path` on success.

  The content and the rename are synced to the disk before this returns. If the
  block fails, `path` is unchanged. Temporary files of processes of this host
  that were killed while they wrote `path` are deleted first.
  """
  path = pathlib.Path(path)
  _remove_leftovers(path)
  part = path.with_name(
    f'.{_stem(path)}.{_HOST}.{os.getpid()}.{next(_COUNTER)}.part'
  )
  try:
    yield part
    sync(part)
    os.replace(part, path)
    sync(path.parent)
  finally:
    part.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes a local file atomically; its folder must exist."""
  with atomically(path) as part:
    part.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a local file in UTF-8, atomically."""
  write_bytes(path, text.encode())


def write_quickly(path: pathlib.Path, data: bytes) -> None:
  """Writes a file atomically, unless the machine fails.

  Skips fsync, which takes 10 ms, too long for thousands of pictures. After a
  power failure the file may be truncated, so readers must check it.
  """
  part = path.with_name(f'.{path.name}.part')
  try:
    part.write_bytes(data)
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)


def _stem(path):
  # A name has at most 255 bytes, some of which the suffix takes.
  return os.fsdecode(os.fsencode(path.name)[:120])


def _remove_leftovers(path):
  pattern = re.compile(
    rf'\.{re.escape(_stem(path))}\.{re.escape(_HOST)}\.(\d+)\.\d+\.part'
  )
  with contextlib.suppress(OSError):
    for name in os.listdir(path.parent):
      match = pattern.fullmatch(name)
      if match and not _is_running(int(match[1])):
        (path.parent / name).unlink(missing_ok=True)


def _is_running(process):
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except (OSError, OverflowError):
    return True
  return True


def sync(path: str | os.PathLike) -> None:
  """Returns once the content of a file or folder is on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as e:
    if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # Some folders cannot.
      raise
  finally:
    os.close(descriptor)
