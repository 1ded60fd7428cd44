"""Strict renaming between official names of tensors and those of diffusers.

A table pairs an official tensor with the tensors of diffusers that are its row
blocks; a fused projection has several. All names of the table, and no others,
must exist; one error lists all violations. Tensors are not read.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sana_jax.weights.table import report
from sana_jax.weights.tensors import concatenate, Stored

_LISTED = 20  # Problems of one kind in an error.


class Row(NamedTuple):
  """Official name of a tensor, and diffusers' names of its row blocks.

  Attributes:
    pointwise: the official one is a 1x1 convolution, (out, in, 1, 1), and that
      of diffusers a matrix.
  """

  official: str
  diffusers: tuple[str, ...]
  pointwise: bool = False

  def under(self, official: str, diffusers: str) -> 'Row':
    """The row in modules with these prefixes."""
    return self._replace(
      official=official + self.official,
      diffusers=tuple(diffusers + name for name in self.diffusers),
    )


def layer(official: str, *diffusers: str, bias: bool = True) -> list[Row]:
  """Rows of a layer's weight and bias."""
  return [
    Row(f'{official}.{kind}', tuple(f'{name}.{kind}' for name in diffusers))
    for kind in ('weight', 'bias')[: 1 + bias]
  ]


def check(
  what: str, wanted: Iterable[str], tensors: Mapping[str, Stored]
) -> None:
  """Raises WeightError unless the tensors have exactly these names."""
  wanted = dict.fromkeys(wanted)
  _report(
    what,
    [
      *_listed('is missing', [name for name in wanted if name not in tensors]),
      *_listed('is unknown', [name for name in tensors if name not in wanted]),
    ],
  )


def to_diffusers(
  what: str, rows: Sequence[Row], tensors: Mapping[str, Stored]
) -> dict[str, Stored]:
  """Tensors of diffusers, from official ones that are in the table."""
  problems, out = [], {}
  for official, diffusers, pointwise in rows:
    tensor, n = tensors[official], len(diffusers)
    if pointwise and tensor.shape[2:] != (1, 1):
      problems.append(f'{official} {tensor.shape}: not a 1x1 convolution')
    elif n > 1 and (not tensor.shape or tensor.shape[0] % n):
      problems.append(f'{official} {tensor.shape}: not {n} blocks of rows')
    else:
      tensor = tensor.reshape(tensor.shape[:2]) if pointwise else tensor
      size = tensor.shape[0] // n if n > 1 else 0
      out |= {
        name: tensor.rows(i * size, (i + 1) * size) if n > 1 else tensor
        for i, name in enumerate(diffusers)
      }
  _report(what, problems)
  return out


def to_official(
  what: str, rows: Sequence[Row], tensors: Mapping[str, Stored]
) -> dict[str, Stored]:
  """Official tensors, from those of diffusers; inverse of `to_diffusers`."""
  problems, out = [], {}
  for official, diffusers, pointwise in rows:
    parts = [tensors[name] for name in diffusers]
    if len({(t.shape, t.dtype) for t in parts}) > 1:
      problems.append(f'{", ".join(diffusers)}: not of one shape and dtype')
      continue
    tensor = concatenate(parts) if len(parts) > 1 else parts[0]
    if pointwise and len(tensor.shape) != 2:
      problems.append(f'{diffusers[0]} {tensor.shape}: not a matrix')
      continue
    out[official] = (
      tensor.reshape((*tensor.shape, 1, 1)) if pointwise else tensor
    )
  _report(what, problems)
  return out


def _listed(what, names):
  more = len(names) - _LISTED
  return [f'{name} {what}' for name in names[:_LISTED]] + (
    [f'and {more} more'] if more > 0 else []
  )


def _report(what, problems):
  report(f'{what} does not have the expected tensors', problems)
