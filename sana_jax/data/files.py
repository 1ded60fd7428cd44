"""Local and remote files (gs://, s3://, hf://) through fsspec.

Connections are opened on first use, separately in each process. Bytes are read
by range and without a position, so all functions are thread-safe.
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

from sana_jax import extras
from sana_jax import files as local
from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.printable import printable

MOST = 10**6  # Limit of files that the braces of a pattern expand to.
# The extra of setup.cfg with the packages that fsspec needs for a protocol.
_EXTRAS = {'gs': 'gcs', 'gcs': 'gcs', 's3': 's3', 's3a': 's3'}
# Other protocols reach any host, or unpack and chain files.
_PROTOCOLS = (*_EXTRAS, 'hf', 'memory')


def is_remote(path: str | os.PathLike) -> bool:
  """Whether the path is a URL."""
  return '://' in os.fspath(path)


def read(path: str, start: int = 0, end: int | None = None) -> bytes:
  """Bytes `start` to `end` of a file, fewer if it ends earlier."""
  given, (system, path) = path, _system(path)
  try:
    if isinstance(system, AsyncFileSystem):
      return system.cat_file(path, start=start, end=end)
    with open_at_random(given) as file:
      # Capped by the size, as memory for all of `end - start` is allocated.
      size = file.seek(0, os.SEEK_END)
      file.seek(start)
      return file.read(max(0, min(size, size if end is None else end) - start))
  except OSError:
    raise
  # Each library raises its own types, after its own retries.
  except Exception as error:  # noqa: BLE001
    raise OSError(f'{path} cannot be read ({_brief(error)})') from error


def write(path: str, data: bytes) -> None:
  """Writes a file atomically, and creates its folder; raises OSError."""
  if is_remote(path):
    system, path = _system(path)
    system.pipe_file(path, data)  # Objects appear once they are complete.
    return
  path = _local(path)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  local.write_bytes(path, data)


def read_json(path: str) -> Any:
  """The value of a JSON file; raises OSError or ValueError."""
  return local.parse_json(read(path))


def create(path: str, data: bytes) -> bool:
  """Creates a file exclusively; False if it exists. Raises OSError."""
  system, path = _system(path)
  try:
    _as_os_error(path, system.pipe_file, path, data, mode='create')
  except FileExistsError:
    return False
  return True


def renew(path: str, data: bytes) -> None:
  """Writes or overwrites an object of a bucket; raises OSError."""
  system, path = _system(path)
  _as_os_error(path, system.pipe_file, path, data)


def modified(path: str) -> float | None:
  """Modification time of a file, by the clock of its store.

  None if it does not exist. Raises OSError.
  """
  system, path = _system(path)
  system.invalidate_cache(path)
  with contextlib.suppress(FileNotFoundError):
    return _as_os_error(path, system.modified, path).timestamp()
  return None


def remove_file(path: str) -> None:
  """Removes a file if it exists; raises OSError."""
  system, path = _system(path)
  with contextlib.suppress(FileNotFoundError):
    _as_os_error(path, system.rm_file, path)


def remove(path: str) -> None:
  """Removes a file, or a folder with its content, if it exists."""
  system, path = _system(path)
  if system.exists(path):
    system.rm(path, recursive=True)


def open_ahead(path: str):
  """File object for one sequential read."""
  if not is_remote(path):
    return local.open_regular(_local(path))
  system, path = _system(path)
  # Without a block size, some send a request for every few bytes.
  return system.open(path, 'rb', block_size=2**23, cache_type='readahead')


def open_at_random(path: str):
  """File object for random access.

  Disables the cache, which would read ahead by megabytes.
  """
  if not is_remote(path):
    return local.open_regular(_local(path))
  system, path = _system(path)
  return system.open(path, 'rb', cache_type='none')


def exists(path: str) -> bool:
  """Whether the path is a file or a folder."""
  system, path = _system(path)
  return _reached(path, system.exists, path)


def is_folder(path: str) -> bool:
  """Whether the path is a folder, or a prefix of objects' names."""
  system, path = _system(path)
  return _reached(path, system.isdir, path)


def list_recursively(folder: str) -> dict[str, tuple[int, str]]:
  """(size, version) of a folder's and subfolders' files, by relative path."""
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
  """(size, version) of the files that match a pattern, by path, sorted.

  Files of `{a,b}` and `{000..123}` that do not exist, unless all are missing,
  have size 0 and are logged.

  Args:
    pattern: a file, a pattern with `*`, `?`, `{a,b}` and `{000..123}`, or a
      folder.
    names: patterns of the files in a folder.
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
  """Expansions of `{a,b}` and `{000..123}` in a pattern, in order.

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
      f'{pattern} expands to more than {MOST:,} files; set the '
      'data path to a pattern with * or to their folder.',
      key='data.path',
      value=pattern,
      allowed=f'{MOST} or fewer',
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
  """(size, version) of a file; None if it is not a file."""
  if info.get('islink'):  # On a disk.
    if not os.path.isfile(name):
      return None
    target = os.stat(name)
    return target.st_size, str(target.st_mtime)
  if info['type'] != 'file':
    return None
  return info['size'] or 0, _version(info)


def _version(info):
  """Value that changes with the content, if the file system has one."""
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
      f'{printable(path, 200)} is not a supported URL; set the data path to a '
      'local one, gs://, s3:// or hf://.',
      key='data.path',
      value=path,
      allowed=_PROTOCOLS,
    )
  try:
    return url_to_fs(path)
  except ImportError as error:
    extra = _EXTRAS.get(protocol, 'train')
    raise UserError(
      f'{path} needs a package that is not installed ({_brief(error)}); '
      f'install it with {extras.install(extra)}.',
      key=extra,
    ) from error
  except ValueError as error:
    raise UserError(
      f'{path} cannot be opened ({_brief(error)}); set the data '
      'path to a local one, gs://, s3:// or hf://.',
      key='data.path',
      value=path,
      allowed=_PROTOCOLS,
    ) from error


def _reached(path, function, *args, **kwargs):
  """Result of the function; UserError if the path cannot be reached."""
  try:
    return function(*args, **kwargs)
  except FileNotFoundError:
    raise UserError(
      f'{path} does not exist; set the data path to an existing one.',
      key='data.path',
      value=path,
    ) from None
  # A wrong bucket, key or repository has as many exceptions as libraries.
  except Exception as error:  # noqa: BLE001
    raise UserError(
      f'{path} cannot be reached ({_brief(error)}); correct the '
      'data path, the connection or the credentials.',
      key='data.path',
      value=path,
    ) from error


def _as_os_error(path, function, *args, **kwargs):
  """Calls the function; converts any exception to an OSError."""
  try:
    return function(*args, **kwargs)
  except OSError:
    raise
  # Each library raises its own types, after its own retries.
  except Exception as error:  # noqa: BLE001
    raise OSError(f'{path} cannot be reached ({_brief(error)})') from error


def _brief(error):
  return (str(error) or type(error).__name__).strip().splitlines()[0]
