"""What a checkpoint holds, read from its files alone: no devices, no mesh.

A run reads back what it has saved before it lets go of what was there, and
`sana-jax export` reads weights while a run goes on. Checksums are those of
checkpoints.py, in numpy: sums over chunks of the files, so that processes read
a part each and add them up.
"""

from collections.abc import Iterator, Sequence
import itertools
import json
from typing import Any

from etils import epath
import jax
import numpy as np
import tensorstore as ts

from sana_jax.training.workdir import is_remote
from sana_jax.typing import PyTree

STATE, DATA, ABOUT = 'state', 'data', 'about'  # Folders of a checkpoint.
_JSON = 'metadata'  # What orbax calls the file in the last two.


def steps(folder: epath.Path) -> list[int]:
  """Of the checkpoints of a run that are whole, in order."""
  return sorted(int(p.name) for p in folder.glob('*')
                if p.name.isdigit() and _is_whole(p))


def _is_whole(checkpoint):
  """Buckets have no renaming of folders: there, a file says so."""
  return not is_remote(checkpoint) or (
      checkpoint / 'commit_success.txt').exists()


def names(tree: PyTree) -> list[str]:
  """Of the leaves, as the files have them: 'params.blocks.qkv.kernel'."""
  return [jax.tree_util.keystr(path, simple=True, separator='.')
          for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def read_json(checkpoint: epath.Path, item: str) -> Any:
  """Of `data` or `about`."""
  return json.loads((checkpoint / item / _JSON).read_text())


def open_array(checkpoint: epath.Path, name: str) -> ts.TensorStore:
  """An array of the state; nothing of it is read yet."""
  base = str(checkpoint / STATE)
  return ts.open({
      'driver': 'zarr', 'kvstore': {
          'driver': 'ocdbt', 'path': f'{name}/',
          'base': f'{base if is_remote(base) else f"file://{base}"}/'},
  }).result()


def checksums(
    checkpoint: epath.Path, leaves: Sequence[str], part: int = 0,
    parts: int = 1,
) -> Iterator[int]:
  """Of each leaf, over every `parts`-th of its chunks, from `part` on.

  Modulo 2^32, those of all parts add up to the leaf's.
  """
  for name in leaves:
    array = open_array(checkpoint, name)
    total = 0
    for region in itertools.islice(_chunks(array), part, None, parts):
      total += checksum(
          array[region].read().result(), [s.start for s in region],
          array.shape)
    yield total % 2**32


def checksum(
    x: np.ndarray, start: Sequence[int] = (), shape: Sequence[int] = ()
) -> int:
  """Of an array, or of the block of an array of `shape` from `start` on."""
  x = np.asarray(x)
  index = np.zeros((), np.uint32)  # In row-major order; it may wrap.
  for first, size, count in itertools.zip_longest(
      start, shape or x.shape, x.shape, fillvalue=0):
    index = index[..., None] * np.uint32(size) + np.arange(
        first, first + count, dtype=np.uint32)
  bits = np.ascontiguousarray(x).view(f'u{x.itemsize}').reshape(x.shape)
  return int(np.sum(bits.astype(np.uint32) * (2*index + 1), dtype=np.uint32))


def _chunks(array):
  """The regions that lie in one piece of a file each."""
  sizes = array.chunk_layout.read_chunk.shape or ()
  for corner in itertools.product(*(
      range(0, n, c) for n, c in zip(array.shape, sizes))):
    yield tuple(slice(first, min(first + c, n))
                for first, c, n in zip(corner, sizes, array.shape))

