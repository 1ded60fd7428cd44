"""Files of any place by their path: on a disk, gs://, s3://, hf://.

Everything goes through fsspec, which opens connections when they are first
used and anew in each process. Bytes are read by range and without a position,
so threads share what is here.
"""

import contextlib
import itertools
import math
import os
import re
from typing import Any

from absl import logging
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from sana_jax import files as local
from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.printable import printable

MOST = 10**6  # Files that the braces of a pattern stand for.
# The extra of setup.cfg that brings what fsspec needs for a protocol.
_EXTRAS = {'gs': 'gcs', 'gcs': 'gcs', 's3': 's3', 's3a': 's3'}
# Others reach any host, or unpack and chain what they find there.
_PROTOCOLS = (*_EXTRAS, 'hf', 'memory')


def is_remote(path: str | os.PathLike) -> bool:
  """Whether the path is a URL."""
  return '://' in os.fspath(path)


def read(path: str, start: int = 0, end: int | None = None) -> bytes:
  """The bytes from `start` to `end` of a file, fewer where it ends earlier."""
  given, (system, path) = path, _system(path)
  try:
    if isinstance(system, AsyncFileSystem):
      return system.cat_file(path, start=start, end=end)
    with open_at_random(given) as file:
      # No more than there is: memory for all of `end - start` is taken at once.
      size = file.seek(0, os.SEEK_END)
      file.seek(start)
      return file.read(max(0, min(size, size if end is None else end) - start))
  except OSError:
    raise
  # Each library has its own, after its own retries.
  except Exception as error:  # noqa: BLE001
    raise OSError(f'{path} cannot be read ({_brief(error)})') from error


def write(path: str, data: bytes) -> None:
  """All of a file or nothing, its folder made if need be; raises OSError."""
  if is_remote(path):
    system, path = _system(path)
    system.pipe_file(path, data)  # An object appears when it is whole.
    return
  path = _local(path)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  local.write_bytes(path, data)


def read_json(path: str) -> Any:
  """The value of a JSON file; raises OSError or ValueError."""
  return local.parse_json(read(path))


def create(path: str, data: bytes) -> bool:
  """Writes a file that is not there; whether it was not. Raises OSError."""
  system, path = _system(path)
  try:
    _as_os_error(path, system.pipe_file, path, data, mode='create')
  except FileExistsError:
    return False
  return True


def renew(path: str, data: bytes) -> None:
  """Writes an object of a bucket whole; raises OSError."""
  system, path = _system(path)
  _as_os_error(path, system.pipe_file, path, data)


def modified(path: str) -> float | None:
  """When a file was last written, by the clock of its place.

  None if there is none. Raises OSError.
  """
  system, path = _system(path)
  system.invalidate_cache(path)
  with contextlib.suppress(FileNotFoundError):
    return _as_os_error(path, system.modified, path).timestamp()
  return None


def remove_file(path: str) -> None:
  """A file, if it is there; raises OSError."""
  system, path = _system(path)
  with contextlib.suppress(FileNotFoundError):
    _as_os_error(path, system.rm_file, path)


def remove(path: str) -> None:
  """A file or a folder with all that is in it, if it is there."""
  system, path = _system(path)
  if system.exists(path):
    system.rm(path, recursive=True)


def open_ahead(path: str):
  """A file object for reading it once from its beginning to its end."""
  if not is_remote(path):
    return local.open_regular(_local(path))
  system, path = _system(path)
  # Some would ask for each few bytes that are read.
  return system.open(path, 'rb', block_size=2**23, cache_type='readahead')


def open_at_random(path: str):
  """A file object for reading some places of it.

  Without cache_type, it would read ahead by megabytes.
  """
  if not is_remote(path):
    return local.open_regular(_local(path))
  system, path = _system(path)
  return system.open(path, 'rb', cache_type='none')


def exists(path: str) -> bool:
  """Whether it is a file or a folder."""
  system, path = _system(path)
  return _reached(path, system.exists, path)


def is_folder(path: str) -> bool:
  """Whether it is a folder, or the beginning of the names of objects."""
  system, path = _system(path)
  return _reached(path, system.isdir, path)


def beneath(folder: str) -> dict[str, tuple[int, str]]:
  """The files of a folder and its subfolders: (size, version) by short name."""
  system, root = _system(folder)
  root = root.rstrip('/')
  found = _reached(folder, system.find, root, detail=True)
  return {
    name[len(root) + 1 :]: stat
    for name, info in sorted(found.items())
    if (stat := _stat(name, info))
  }


def expand(
  pattern: str, names: tuple[str, ...] = ()
) -> dict[str, tuple[int, str]]:
  """The files that a pattern stands for: (size, version) by path, sorted.

  Args:
    pattern: a file, or with `*`, `?`, `{a,b}` and `{000..123}`, or a folder.
    names: patterns of the files of a folder.

  What is missing of `{a,b}` and `{000..123}`, if not all is, has the size 0 and
  is told in the log.
  """
  out, missing = {}, []
  for part in braces(pattern):
    if names and not _is_pattern(part) and is_folder(part):
      parts = [f'{part.rstrip("/")}/{name}' for name in names]
    else:
      parts = [part]
    for one in parts:
      found = _glob(one)
      out |= found
      if not found and not _is_pattern(one):
        missing.append(one)
  if out and missing:
    logging.warning(
      '%d of %s are missing, the first is %s.',
      len(missing),
      pattern,
      missing[0],
    )
    for one in missing:
      system, path = _system(one)
      out[_full(system, one, path)] = 0, ''
  return dict(sorted(out.items()))


def braces(pattern: str) -> list[str]:
  """The patterns that `{a,b}` and `{000..123}` stand for, in their order.

  Raises UserError for more than MOST of them.
  """
  parts = []
  for part in re.split(r'(\{[^{}]*\})', pattern):
    span = re.fullmatch(r'\{([0-9]{1,18})\.\.([0-9]{1,18})\}', part)
    if span:
      width = len(span[1]) if span[1].startswith('0') else 0
      numbers = range(int(span[1]), int(span[2]) + 1)
      parts.append([f'{n:0{width}}' for n in numbers[: MOST + 1]])
    elif part.startswith('{') and ',' in part and part.endswith('}'):
      parts.append(part[1:-1].split(','))
    else:
      parts.append([part])
  if math.prod(map(len, parts)) > MOST:
    raise UserError(
      f'{pattern} stands for more than {MOST:,} files; set the '
      'data path to a pattern with * or to their folder.'
    )
  return [''.join(choice) for choice in itertools.product(*parts)]


def _glob(pattern):
  system, path = _system(pattern)
  if _is_pattern(pattern):
    found = _reached(pattern, system.glob, path, detail=True)
  elif _reached(pattern, system.isfile, path):
    found = {path: system.info(path)}
  else:
    found = {}
  return {
    _full(system, pattern, name): stat
    for name, info in found.items()
    if (stat := _stat(name, info))
  }


def _full(system, pattern, name):
  return system.unstrip_protocol(name) if is_remote(pattern) else name


def _is_pattern(path):
  return any(c in path for c in '*?[')


def _stat(name, info):
  """(size, version) of a file; None for what is none."""
  if info.get('islink'):  # On a disk.
    if not os.path.isfile(name):
      return None
    target = os.stat(name)
    return target.st_size, str(target.st_mtime)
  if info['type'] != 'file':
    return None
  return info['size'] or 0, _version(info)


def _version(info):
  """What changes with the content, as far as the place says."""
  for key in (
    'ETag',
    'etag',
    'md5Hash',
    'blob_id',
    'mtime',
    'LastModified',
    'created',
  ):
    if info.get(key) is not None:
      return str(info[key])
  return ''


def _local(path):
  return os.path.abspath(expanded(path))


def _system(path):
  path = os.fspath(path)
  if not is_remote(path):
    return LocalFileSystem(), LocalFileSystem._strip_protocol(path)
  protocol = path.partition('://')[0]
  if protocol not in _PROTOCOLS:
    raise UserError(
      f'{printable(path, 200)} is in no place that data are read '
      'from; set the data path to a local one, gs://, s3:// or '
      'hf://.'
    )
  try:
    return url_to_fs(path)
  except ImportError as error:
    extra = _EXTRAS.get(protocol, 'train')
    raise UserError(
      f'{path} needs a package that is not installed ({_brief(error)}); '
      f"install it with pip install 'sana_jax[{extra}]'."
    ) from error
  except ValueError as error:
    raise UserError(
      f'{path} cannot be opened ({_brief(error)}); set the data '
      'path to a local one, gs://, s3:// or hf://.'
    ) from error


def _reached(path, function, *args, **kwargs):
  """What the function returns; UserError if the place cannot be reached."""
  try:
    return function(*args, **kwargs)
  except FileNotFoundError:
    raise UserError(
      f'{path} does not exist; set the data path to what does.'
    ) from None
  # A wrong bucket, key or repository has as many exceptions as libraries.
  except Exception as error:  # noqa: BLE001
    raise UserError(
      f'{path} cannot be reached ({_brief(error)}); mend the '
      'data path, the connection or the credentials.'
    ) from error


def _as_os_error(path, function, *args, **kwargs):
  """Calls the function; whatever it raises becomes an OSError."""
  try:
    return function(*args, **kwargs)
  except OSError:
    raise
  # Each library has its own, after its own retries.
  except Exception as error:  # noqa: BLE001
    raise OSError(f'{path} cannot be reached ({_brief(error)})') from error


def _brief(error):
  return (str(error) or type(error).__name__).strip().splitlines()[0]
