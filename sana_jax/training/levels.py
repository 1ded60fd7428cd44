"""Means over parts of an interval: the loss by noise level.

A batch has few examples of each noise level, so one step's means are noise. The
step returns sums and counts, the host adds them up between two log lines, and
the line has the mean of all examples that fell into each part.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sana_jax.objectives.levels import Levels


class Accumulated:
  """Levels by name, of steps between two log lines; on the host."""

  def __init__(self):
    self._sums = {}

  def add(self, metrics: Mapping[str, Any]) -> None:
    """Adds those of a step's metrics that are Levels."""
    for name, found in metrics.items():
      if isinstance(found, Levels):
        # f64: a line may be the sum of very many steps.
        new = np.asarray(found, np.float64)
        self._sums[name] = self._sums.get(name, 0) + new

  def line(self) -> dict[str, float]:
    """`name/FROM-TO` -> mean; parts that nothing fell into are absent."""
    found = {}
    for name, (sums, counts) in self._sums.items():
      edges = np.linspace(0, 1, len(sums) + 1)
      found |= {
        f'{name}/{low:.3f}-{high:.3f}': float(s / n)
        for low, high, s, n in zip(edges, edges[1:], sums, counts)
        if n
      }
    self._sums = {}
    return found


def flat(metrics: Mapping[str, Any]) -> dict[str, float]:
  """A step's own numbers: scalars, and `name_00`, ... of a vector."""
  found = {}
  for name, value in metrics.items():
    if isinstance(value, Levels):
      continue
    if np.ndim(value) == 0:
      found[name] = value.item()
    else:
      found |= {f'{name}_{i:02d}': x for i, x in enumerate(value.tolist())}
  return found
