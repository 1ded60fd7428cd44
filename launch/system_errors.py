"""One-line messages for errors of the operating system."""

import errno
import os
import pathlib

import sana_jax

_PACKAGE = pathlib.Path(sana_jax.__file__).parent
_OURS = tuple(
  f'{folder}{os.sep}'
  for folder in (
    _PACKAGE,
    *(_PACKAGE.parent / name for name in ('configs', 'kernels', 'launch')),
  )
)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST}
# Invalid path, or one of the wrong kind.
_MISLEADING = {
  errno.ENOENT,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.ENAMETOOLONG,
  errno.ELOOP,
  errno.EINVAL,
  errno.ENXIO,
  errno.ENODEV,
  errno.ENOTEMPTY,
  errno.EBUSY,
  errno.ESPIPE,
  errno.EXDEV,
}
_BROKEN = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def message(error: OSError | MemoryError) -> str | None:
  """Message for the user; None if the error may be a bug.

  A bug is assumed if the error has no path, or one of the package itself.
  """
  if isinstance(error, MemoryError):
    return (
      f'The memory of this machine does not suffice ({error}); lower '
      'batch sizes or the sizes of pictures or models.'
    )
  name, number = error.filename, error.errno
  file = os.fsdecode(name) if isinstance(name, str | bytes) else ''
  if number in _FULL:
    return (
      f'No space is left to write {file or "a file"} '
      f'({error.strerror}); free some, or choose another folder.'
    )
  if number in _BROKEN:
    return f'{file or "A file"} cannot be read or written ({error.strerror}).'
  if not file or os.path.abspath(file).startswith(_OURS):
    return None
  if number in _DENIED:
    return (
      f'{file} cannot be written ({error.strerror}); choose another folder.'
    )
  if number in _MISLEADING:
    return f'{file} cannot be used ({error.strerror}); give another path.'
  return None
