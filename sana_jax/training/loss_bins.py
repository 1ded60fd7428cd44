"""Loss averaged per noise-level bin.

A batch has few examples of each noise level, so the means of one step are
noisy. The step returns sums and counts, the host accumulates them between two
log lines, and the line has the mean of all examples in each bin.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sana_jax.objectives.levels import Levels


class LossBins:
  """Host-side accumulator of Levels by name, between two log lines."""

  def __init__(self):
    self._sums = {}

  def add(self, metrics: Mapping[str, Any]) -> None:
    """Adds the Levels among a step's metrics."""
    for name, found in metrics.items():
      if isinstance(found, Levels):
        # f64: a line may sum very many steps.
        new = np.asarray(found, np.float64)
        self._sums[name] = self._sums.get(name, 0) + new

  def line(self) -> dict[str, float]:
    """`name/FROM-TO` -> mean, without empty bins; resets the sums."""
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
  """Metrics without Levels: scalars, and `name_00`, ... for a vector."""
  found = {}
  for name, value in metrics.items():
    if isinstance(value, Levels):
      continue
    if np.ndim(value) == 0:
      found[name] = value.item()
    else:
      found |= {f'{name}_{i:02d}': x for i, x in enumerate(value.tolist())}
  return found
