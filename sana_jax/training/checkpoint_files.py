"""Contents of a checkpoint, read from its files without devices or a mesh.

A run reads a checkpoint back before it deletes older ones, and `sana-jax
export` reads weights during a run. Checksums are those of checkpoints.py, in
numpy: sums over chunks of the files, so that each process reads a part and the
parts are added.
"""

from collections.abc import Iterator, Sequence
import itertools
import os
import re
import stat
from typing import Any

from etils import epath
import numpy as np
import tensorstore as ts

from sana_jax import files
from sana_jax.data.files import is_remote
from sana_jax.errors import UserError
from sana_jax.tree import leaves
from sana_jax.typing import PyTree

LAYOUT = 2  # Of a workdir; 1 had frozen params too, and one optimizer.
STATE, DATA, ABOUT = 'state', 'data', 'about'  # Folders of a checkpoint.
_JSON = 'metadata'  # Orbax's name of the file in the last two.


def steps(folder: epath.Path) -> list[int]:
  """Steps of the complete checkpoints of a run, in order."""
  return [
    step
    for step in named(folder)
    if is_remote(folder) or (folder / str(step)).is_dir()
  ]


def named(folder: epath.Path) -> list[int]:
  """Steps named in the folder, in order.

  On a disk any entry counts, as orbax renames complete folders to that name; a
  bucket cannot rename folders, and a file marks the complete ones.
  """
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
  return sorted(
    step
    for name in names
    if (step := step_of(name)) is not None
    and (
      not is_remote(folder) or (folder / name / 'commit_success.txt').exists()
    )
  )


def step_of(name: str) -> int | None:
  """The step of a checkpoint's name; None for other names, such as '²'."""
  is_step = re.fullmatch('0|[1-9][0-9]{0,9}', name) and int(name) < 2**31
  return int(name) if is_step else None


def read(path: epath.Path) -> bytes:
  """Content of a file; does not block on a local fifo."""
  if is_remote(path):
    return path.read_bytes()
  with files.open_regular(path) as file:
    return file.read()


def check_kinds(checkpoint: epath.Path) -> None:
  """Raises ValueError if a local checkpoint holds a fifo or a device.

  Orbax and TensorStore would block on it.
  """
  if is_remote(checkpoint):
    return
  if not checkpoint.is_dir():
    raise ValueError('it is no folder')
  for folder, _, names in os.walk(checkpoint):
    for name in names:
      path = os.path.join(folder, name)
      if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(
          f'{os.path.relpath(path, checkpoint)} is not a regular file'
        )


def names(tree: PyTree) -> list[str]:
  """Names of the leaves in the files, such as 'params.blocks.qkv.kernel'."""
  return list(leaves(tree, '.'))


def read_json(checkpoint: epath.Path, item: str) -> Any:
  """Content of the item `data` or `about`."""
  return files.parse_json(read(checkpoint / item / _JSON))


def base_of(about: dict[str, Any]) -> dict[str, Any] | None:
  """Origin of the base of a partial run; ValueError if it is invalid.

  None if everything is trainable, or in another layout.
  """
  base = about.get('base')
  if base is not None and set(base) != {'init_from', 'checksum', 'seed'}:
    raise ValueError('it has no valid base')
  return base


def check_layout(checkpoint: epath.Path, about: dict[str, Any]) -> None:
  """Raises UserError if another version of the package wrote it."""
  if (layout := about.get('layout', 1)) != LAYOUT:
    raise UserError(
      f'{checkpoint} has layout {layout!r}, of version '
      f'{about.get("version", "0.1.0 or older")!r}, and this version reads '
      f'layout {LAYOUT}: export the model with that version and start a new '
      'run from it, with --config.init_from and another --workdir.',
      key='--workdir',
      value=layout,
      allowed=(LAYOUT,),
    )


def open_array(checkpoint: epath.Path, name: str) -> ts.TensorStore:
  """An array of the state, opened but not yet read."""
  base = str(checkpoint / STATE)
  return ts.open(
    {
      'driver': 'zarr',
      'kvstore': {
        'driver': 'ocdbt',
        'path': f'{name}/',
        'base': f'{base if is_remote(base) else f"file://{base}"}/',
      },
    }
  ).result()


def checksums(
  checkpoint: epath.Path,
  leaves: Sequence[str],
  part: int = 0,
  parts: int = 1,
) -> Iterator[int]:
  """Checksums of leaves, over every `parts`-th chunk from `part` on.

  Modulo 2^32, the sums of all parts add up to the leaf's checksum.
  """
  for name in leaves:
    array = open_array(checkpoint, name)
    total = 0
    for region in itertools.islice(_chunks(array), part, None, parts):
      total += checksum(
        array[region].read().result(), [s.start for s in region], array.shape
      )
    yield total % 2**32


def checksum(
  x: np.ndarray, start: Sequence[int] = (), shape: Sequence[int] = ()
) -> int:
  """Checksum of an array, or of a block at `start` of an array of `shape`."""
  x = np.asarray(x)
  index = np.zeros((), np.uint32)  # In row-major order; it may wrap.
  for first, size, count in itertools.zip_longest(
    start, shape or x.shape, x.shape, fillvalue=0
  ):
    index = index[..., None] * np.uint32(size) + np.arange(
      first, first + count, dtype=np.uint32
    )
  bits = np.ascontiguousarray(x).view(f'u{x.itemsize}').reshape(x.shape)
  return int(np.sum(bits.astype(np.uint32) * (2 * index + 1), dtype=np.uint32))


def _chunks(array):
  """Regions of an array, one for each chunk of its file."""
  sizes = array.chunk_layout.read_chunk.shape or ()
  for corner in itertools.product(
    *(range(0, n, c) for n, c in zip(array.shape, sizes))
  ):
    yield tuple(
      slice(first, min(first + c, n))
      for first, c, n in zip(corner, sizes, array.shape)
    )
