"""Language models whose output layer is the table of their embeddings."""

from collections.abc import Mapping

import numpy as np

from sana_jax.errors import UserError
from sana_jax.weights.tensors import Stored

_HEAD = 'lm_head.weight'
_ROWS = 8192


def without_head(
  tensors: Mapping[str, Stored], embeddings: str
) -> dict[str, Stored]:
  """The tensors without lm_head.weight, which must equal the embeddings.

  Raises:
    UserError: it differs.
  """
  out = dict(tensors)
  head, table = out.pop(_HEAD, None), out.get(embeddings)
  if head is not None and not (table is not None and _equal(head, table)):
    name = embeddings.removeprefix('model.')
    raise UserError(
      f'{_HEAD} differs from {name}; the model has tied embeddings: remove '
      f'{_HEAD} or use other weights.',
      key=_HEAD,
      allowed=(name,),
    )
  return out


def _equal(a: Stored, b: Stored) -> bool:
  """Whether two large tensors are equal, compared some rows at a time."""
  return a.shape == b.shape and all(
    np.array_equal(a.fetch(i, i + _ROWS), b.fetch(i, i + _ROWS))
    for i in range(0, a.shape[0], _ROWS)
  )
