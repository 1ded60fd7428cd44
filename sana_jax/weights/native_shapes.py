"""Check of names and shapes in an Orbax checkpoint, before arrays are read.

Orbax reports a wrong shape only while it restores other arrays, and a small
config.json and checkpoint may declare a model of terabytes.
"""

import math
import pathlib

from sana_jax.errors import UserError
from sana_jax.printable import printable
from sana_jax.tree import leaves
from sana_jax.typing import PyTree
from sana_jax.weights import table

# Arrays are compressed; models above this ratio and size are refused.
_COMPRESSION, _SMALL_BYTES = 100, 2**28


def check(folder: pathlib.Path, shapes: PyTree) -> None:
  """Raises UserError unless a part's checkpoint has these variables."""
  path = folder / 'orbax'
  held = _bytes(path)
  wanted = leaves(shapes)
  needed = sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in wanted.values()
  )
  if needed > max(_SMALL_BYTES, _COMPRESSION * held):
    raise UserError(
      f'{folder / "config.json"} describes a model of {needed / 1e6:,.0f} MB, '
      f'but {path} contains {held / 1e6:,.1f} MB.',
      key='config.json',
      value=needed,
      allowed=f'{held} bytes of {path}',
    )
  saved = _shapes(path)
  wrong = [
    f'{name} {saved.get(name, "is missing")}, where '
    f'{tuple(leaf.shape)} is needed'
    for name, leaf in wanted.items()
    if saved.get(name) != tuple(leaf.shape)
  ]
  wrong += [f'{name}: the model has none' for name in saved.keys() - wanted]
  table.report(f'{path} does not fit the model', sorted(wrong))


def _bytes(path):
  """Bytes of the files; UserError for a pipe, which would block."""
  held = 0
  for entry in path.rglob('*'):
    if entry.is_file():
      held += entry.stat().st_size
    elif not entry.is_dir():
      raise UserError(
        f'{entry} is neither a file nor a folder.',
        value=entry,
        allowed='files and folders',
      )
  return held


def _shapes(path):
  import orbax.checkpoint as ocp

  try:
    with ocp.StandardCheckpointer() as checkpointer:
      saved = dict(checkpointer.metadata(path.absolute()).item_metadata)
    return {name: tuple(leaf.shape) for name, leaf in leaves(saved).items()}
  except Exception as e:  # Orbax raises anything for damaged metadata.
    reason = (str(e).strip().splitlines() or [''])[0]
    raise UserError(
      f'{path} cannot be restored ({type(e).__name__}: '
      f'{printable(reason, 300)}); it may be damaged.',
      value=path,
    ) from e
