"""Places of claims: a folder of a disk, or the objects of a bucket.

Both can create a file only where there is none, and tell by their own clock
when a file was last written. On a disk this is O_EXCL, which NFS has since its
version 3; gs:// has if-generation-match=0, s3:// if-none-match, both by fsspec.
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
  """The claim at a place and the files beside it, by suffixes of its name."""

  place: str

  @abc.abstractmethod
  def create(self, suffix: str, content: Callable[[str], bytes]) -> bool:
    """Whether the file was not there, and now is.

    `content` is given what tells the file from a copy of it.
    """

  @abc.abstractmethod
  def read(self, suffix: str = '') -> bytes | None:
    """The content of the file; None if there is none."""

  @abc.abstractmethod
  def renew(self, suffix: str) -> None:
    """Makes the file, or its time, new."""

  @abc.abstractmethod
  def modified(self, suffix: str) -> float | None:
    """When it was last written; None if there is none."""

  @abc.abstractmethod
  def remove(self, suffix: str) -> None:
    """Removes it, if it is there."""

  @abc.abstractmethod
  def identity(self) -> str:
    """The value that `create` gave to the claim that is there."""

  @abc.abstractmethod
  def close(self) -> None:
    """Removes the folders that were made for the claim alone."""

  def age(self, suffix: str) -> float | None:
    """Seconds since it was last written, by the store's clock."""
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
  """The store for a claim's path or URL."""
  return Bucket(place) if '://' in place else Disk(place)


class Disk(Store):
  """Files of a folder, which is made if need be."""

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
    except BaseException:  # A full disk, or a stop.
      self.remove(suffix)
      raise
    return True

  def read(self, suffix=''):
    try:
      return read_bytes(self.place + suffix, _MOST)
    except FileNotFoundError:
      # A link that leads nowhere is there.
      return b'' if os.path.lexists(self.place + suffix) else None
    except OSError as e:
      if e.errno in (errno.EFBIG, errno.EINVAL, errno.ENXIO, errno.ELOOP):
        return b''  # No claim, but in its place.
      raise

  def renew(self, suffix):
    try:
      os.utime(self.place + suffix)  # Without times: by the server's clock.
    except FileNotFoundError:
      self.create(suffix, lambda _: b'')

  def modified(self, suffix):
    try:
      with open_regular(self.place + suffix) as file:  # NFS asks its server.
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
      with contextlib.suppress(OSError):  # It is in use: it stays.
        folder.rmdir()

  def _make_folder(self):
    folder = pathlib.Path(self.place).parent
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    self._made += made


def _identity(status):
  return f'inode {status.st_ino}'


class Bucket(Store):
  """Objects, through fsspec; a failure of any library is an OSError."""

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
