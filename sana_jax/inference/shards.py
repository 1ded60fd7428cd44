"""Tar files of pictures and their metadata (WebDataset's layout).

Shards are untrusted: they are read with size limits, and nothing is unpacked to
the disk.
"""

from collections.abc import Mapping, Sequence
import io
import json
import pathlib
import stat
import tarfile
from typing import Any

from sana_jax import files
from sana_jax.inference import images

MOST_BYTES = 2**29  # Of a picture's file.


def assign(names: Sequence[str], size: int, prefix: str) -> dict[str, str]:
  """The shard of each picture; {} if `size` is 0."""
  return (
    {name: f'shard-{prefix}{i // size:06d}.tar' for i, name in enumerate(names)}
    if size
    else {}
  )


def contents(path: pathlib.Path) -> set[str]:
  """Names of the pictures in a shard with the start and end of their format.

  Raises:
    ValueError: it is damaged, or not a regular file.
  """
  try:
    if not stat.S_ISREG(path.lstat().st_mode):
      raise ValueError('not a regular file')
    with files.open_regular(path) as file, _open(file) as tar:
      return {
        m.name
        for m in tar
        if _is_plain(m)
        and images.has_ends(
          file, m.offset_data, m.size, pathlib.PurePath(m.name).suffix
        )
      }
  except Exception as e:  # tarfile raises errors of many types.
    raise ValueError(str(e) or type(e).__name__) from e


def read(path: pathlib.Path, name: str) -> bytes:
  """The bytes of a picture in a shard.

  Raises:
    ValueError: the shard is damaged, or the picture is not in it.
  """
  try:
    with files.open_regular(path) as file, _open(file) as tar:
      member = tar.getmember(name)
      if not _is_plain(member):
        raise ValueError(f'{name} is no file in it')
      return tar.extractfile(member).read()
  except Exception as e:  # As above.
    raise ValueError(str(e) or type(e).__name__) from e


def pack(
  path: pathlib.Path,
  parts: pathlib.Path,
  fresh: Sequence[str],
  made: Mapping[str, Mapping[str, Any]],
  add: bool,
) -> None:
  """Writes a shard of the pictures in `parts`, then deletes those files.

  Args:
    fresh: names of these pictures.
    made: metadata of each.
    add: whether to keep the shard's other pictures.
  """
  stems = {pathlib.PurePath(name).stem for name in fresh}
  with (
    files.atomically(path) as part,
    tarfile.open(part, 'w', format=tarfile.USTAR_FORMAT) as tar,
  ):
    if add:
      with files.open_regular(path) as file, _open(file) as old:
        for member in old:
          if (
            _is_plain(member)
            and pathlib.PurePath(member.name).stem not in stems
          ):
            _add(tar, member.name, old.extractfile(member).read())
    for name in fresh:
      about = json.dumps(made[name], ensure_ascii=False).encode()
      _add(tar, name, files.read_bytes(parts / name, MOST_BYTES))
      _add(tar, pathlib.PurePath(name).with_suffix('.json').name, about)
  for name in fresh:
    (parts / name).unlink()


def _open(file):
  return tarfile.open(fileobj=file, mode='r:')  # Never compressed.


def _is_plain(member):
  # A sparse member may have any size.
  return (
    member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
    and not member.issparse()
    and member.size <= MOST_BYTES
  )


def _add(tar, name, data):
  info = tarfile.TarInfo(name)
  info.size = len(data)
  tar.addfile(info, io.BytesIO(data))
