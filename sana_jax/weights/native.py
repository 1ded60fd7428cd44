"""Our own parameters on disk: an Orbax checkpoint in a part's folder.

  transformer/  config.json, orbax/

It loads onto any mesh, each process reading only its shards, without
transposing or stacking. Training starts from it, and pods sample with it.
"""

import pathlib

import jax
from jax.sharding import SingleDeviceSharding

from sana_jax.errors import UserError
from sana_jax.printable import printable
from sana_jax.typing import DType, PyTree
from sana_jax.weights import placing

_NAME = 'orbax'
# Exceptions of Orbax for damaged metadata, or metadata of other types.
_DAMAGED = (
  OSError,
  ValueError,
  LookupError,
  TypeError,
  AttributeError,
  RecursionError,
)


def holds(folder: pathlib.Path) -> bool:
  """Whether the folder of a part has such a checkpoint."""
  return (folder / _NAME).is_dir()


def save(folder: pathlib.Path, variables: PyTree) -> None:
  """Writes the variables atomically."""
  import orbax.checkpoint as ocp

  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder.absolute() / _NAME, variables)


def load(
  folder: pathlib.Path,
  shapes: PyTree,
  dtype: DType | None = None,
  shardings: PyTree | None = None,
) -> PyTree:
  """Restores the variables in `dtype` (or as saved) with `shardings`.

  Raises UserError for a damaged checkpoint, or one of another model. Pipes are
  detected by `native_shapes.check`, which must be called before.
  """
  import orbax.checkpoint as ocp

  path = folder.absolute() / _NAME
  if shardings is None:
    one = SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: one, shapes)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      saved = checkpointer.metadata(path).item_metadata
      return checkpointer.restore(
        path,
        jax.tree.map(
          lambda leaf, sharding, there: jax.ShapeDtypeStruct(
            leaf.shape,
            there.dtype if dtype is None else placing.target_dtype(leaf, dtype),
            sharding=sharding,
          ),
          shapes,
          shardings,
          dict(saved),
        ),
      )
  except _DAMAGED as e:
    reason = printable((str(e).strip().splitlines() or [''])[0], 500)
    raise UserError(
      f'{path} cannot be restored into the model that '
      f'config.json describes ({reason}); it may be damaged, or '
      "another model's.",
      value=path,
    ) from e
