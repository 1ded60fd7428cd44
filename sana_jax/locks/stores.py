"""Storage of claims: a folder of a disk, or the objects of a bucket.

Both support exclusive creation and record modification times by their own
clock. Disks use O_EXCL, which NFS supports since version 3; gs:// uses
if-generation-match=0 and s3:// if-none-match, both through fsspec.
"""

import abc
from collections.abc import Callable
import contextlib
import errno
import os
import pathlib
import time
import uuid

from sana_jax.files import open_regular, read_bytes

_MOST = 4096  # Bytes of a claim.


class Store(abc.ABC):
  """A claim and the files next to it, addressed by suffixes of its name."""

  place: str

  @abc.abstractmethod
  def create(self, suffix: str, content: Callable[[str], bytes]) -> bool:
    """Creates the file exclusively; returns False if it already exists.

    Args:
      suffix: of the file's name.
      content: (identity) -> bytes; a copy of the file has another identity.
    """

  @abc.abstractmethod
  def read(self, suffix: str = '') -> bytes | None:
    """Content of the file; None if it does not exist."""

  @abc.abstractmethod
  def renew(self, suffix: str) -> None:
    """Creates the file, or sets its modification time to now."""

  @abc.abstractmethod
  def modified(self, suffix: str) -> float | None:
    """Modification time of the file; None if it does not exist."""

  @abc.abstractmethod
  def remove(self, suffix: str) -> None:
    """Removes the file if it exists."""

  @abc.abstractmethod
  def identity(self) -> str:
    """Identity of the existing claim, as passed to `content` by `create`."""

  @abc.abstractmethod
  def close(self) -> None:
    """Removes empty folders that were created for the claim."""

  def age(self, suffix: str) -> float | None:
    """Seconds since the file was modified, by the store's clock."""
    then = self.modified(suffix)
    if then is None:
      return None
    probe = f'.probe.{uuid.uuid4().hex}'
    try:
      self.renew(probe)
      return (self.modified(probe) or time.time()) - then
    finally:
      self.remove(probe)


def store_of(place: str) -> Store:
  """Store for a claim's path or URL."""
  return Bucket(place) if '://' in place else Disk(place)


class Disk(Store):
  """Files in a folder, which is created if necessary."""

  def __init__(self, place: str):
    self.place, self._made = place, []

  def create(self, suffix, content):
    self._make_folder()
    path = self.place + suffix
    try:
      file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
      return False
    try:
      with os.fdopen(file, 'wb') as out:
        out.write(content(_identity(os.fstat(file))))
    except BaseException:  # A full disk, or an interrupt.
      self.remove(suffix)
      raise
    return True

  def read(self, suffix=''):
    try:
      return read_bytes(self.place + suffix, _MOST)
    except FileNotFoundError:
      # A dangling symlink exists.
      return b'' if os.path.lexists(self.place + suffix) else None
    except OSError as e:
      if e.errno in (errno.EFBIG, errno.EINVAL, errno.ENXIO, errno.ELOOP):
        return b''  # Not a claim, but it blocks the path.
      raise

  def renew(self, suffix):
    try:
      os.utime(self.place + suffix)  # No times given: uses the server's clock.
    except FileNotFoundError:
      self.create(suffix, lambda _: b'')

  def modified(self, suffix):
    try:
      with open_regular(
        self.place + suffix
      ) as file:  # NFS revalidates on open.
        return os.fstat(file.fileno()).st_mtime
    except OSError:
      with contextlib.suppress(FileNotFoundError):
        return os.lstat(self.place + suffix).st_mtime
    return None

  def remove(self, suffix):
    with contextlib.suppress(FileNotFoundError):
      os.unlink(self.place + suffix)

  def identity(self):
    with contextlib.suppress(FileNotFoundError):
      return _identity(os.lstat(self.place))
    return ''

  def close(self):
    for folder in self._made:
      with contextlib.suppress(OSError):  # Not empty: keep it.
        folder.rmdir()

  def _make_folder(self):
    folder = pathlib.Path(self.place).parent
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    self._made += made


def _identity(status):
  return f'inode {status.st_ino}'


class Bucket(Store):
  """Objects, through fsspec; all libraries' errors are raised as OSError."""

  def __init__(self, place: str):
    from sana_jax.data import files

    self.place, self._files = place, files

  def create(self, suffix, content):
    return self._files.create(self.place + suffix, content(self.place))

  def read(self, suffix=''):
    try:
      return self._files.read(self.place + suffix, 0, _MOST)
    except FileNotFoundError:
      return None

  def renew(self, suffix):
    self._files.renew(self.place + suffix, b'.')

  def modified(self, suffix):
    return self._files.modified(self.place + suffix)

  def remove(self, suffix):
    self._files.remove_file(self.place + suffix)

  def identity(self):
    return self.place

  def close(self):
    pass
