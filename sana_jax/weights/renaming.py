"""Other people's names for the tensors of diffusers, both ways and strictly.

A table pairs one of their tensors with the ones of diffusers that are its row
blocks: a fused projection has several. Each name of the table must be there and
no other, or one error lists all that are wrong. Nothing is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sana_jax.weights.table import report
from sana_jax.weights.tensors import concatenate, Stored

_LISTED = 20  # Problems of one kind in an error.


class Row(NamedTuple):
  """One of their tensors and diffusers' names for its row blocks.

  Attributes:
    pointwise: theirs is a 1x1 convolution, (out, in, 1, 1); ours a matrix.
  """

  theirs: str
  ours: tuple[str, ...]
  pointwise: bool = False

  def under(self, theirs: str, ours: str) -> 'Row':
    """The row within modules of these names."""
    return self._replace(
      theirs=theirs + self.theirs, ours=tuple(ours + name for name in self.ours)
    )


def layer(theirs: str, *ours: str, bias: bool = True) -> list[Row]:
  """The rows of a layer's weight and bias."""
  return [
    Row(f'{theirs}.{kind}', tuple(f'{name}.{kind}' for name in ours))
    for kind in ('weight', 'bias')[: 1 + bias]
  ]


def check(
  what: str, wanted: Iterable[str], tensors: Mapping[str, Stored]
) -> None:
  """Raises WeightError unless the tensors are the wanted ones."""
  wanted = dict.fromkeys(wanted)
  _report(
    what,
    [
      *_listed('is missing', [name for name in wanted if name not in tensors]),
      *_listed('is unknown', [name for name in tensors if name not in wanted]),
    ],
  )


def to_ours(
  what: str, rows: Sequence[Row], tensors: Mapping[str, Stored]
) -> dict[str, Stored]:
  """diffusers' tensors, from theirs; others than the table's are left out."""
  problems, out = [], {}
  for theirs, ours, pointwise in rows:
    tensor, n = tensors[theirs], len(ours)
    if pointwise and tensor.shape[2:] != (1, 1):
      problems.append(f'{theirs} {tensor.shape}: no 1x1 convolution')
    elif n > 1 and (not tensor.shape or tensor.shape[0] % n):
      problems.append(f'{theirs} {tensor.shape}: not {n} blocks of rows')
    else:
      tensor = tensor.reshape(tensor.shape[:2]) if pointwise else tensor
      size = tensor.shape[0] // n if n > 1 else 0
      out |= {
        name: tensor.rows(i * size, (i + 1) * size) if n > 1 else tensor
        for i, name in enumerate(ours)
      }
  _report(what, problems)
  return out


def to_theirs(
  what: str, rows: Sequence[Row], tensors: Mapping[str, Stored]
) -> dict[str, Stored]:
  """Their tensors, from diffusers'; the inverse of `to_ours`."""
  problems, out = [], {}
  for theirs, ours, pointwise in rows:
    parts = [tensors[name] for name in ours]
    if len({(t.shape, t.dtype) for t in parts}) > 1:
      problems.append(f'{", ".join(ours)}: not of one shape and dtype')
      continue
    tensor = concatenate(parts) if len(parts) > 1 else parts[0]
    if pointwise and len(tensor.shape) != 2:
      problems.append(f'{ours[0]} {tensor.shape}: no matrix')
      continue
    out[theirs] = tensor.reshape((*tensor.shape, 1, 1)) if pointwise else tensor
  _report(what, problems)
  return out


def _listed(what, names):
  more = len(names) - _LISTED
  return [f'{name} {what}' for name in names[:_LISTED]] + (
    [f'and {more} more'] if more > 0 else []
  )


def _report(what, problems):
  report(f'{what} does not hold what it should', problems)
