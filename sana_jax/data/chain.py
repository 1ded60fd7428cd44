"""Sources one after the other, as a single one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sana_jax.data.records import name_of


def chained(sources: Sequence[Any]) -> Any:
  """The only source, a Chain of several, or None for those that are None."""
  return (
    Chain(sources)
    if len(sources) > 1 and sources[0] is not None
    else sources[0]
  )


class Chain:
  """Records of each source in turn, with its number as 'part'.

  The caches among them pad their texts to the same length.
  """

  def __init__(self, sources: Sequence[Any]):
    self._sources = sources
    self._ends = np.cumsum([len(source) for source in sources])

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.at(index, 0)

  def at(self, index: int, draw: int) -> dict[str, Any]:
    """The record, with the caption that `draw` selects."""
    part, index = self._place(index)
    return {**self._sources[part].at(index, draw), 'part': part}

  def name(self, index: int) -> str:
    """Name of a record, for reports."""
    part, index = self._place(index)
    return name_of(self._sources[part], index)

  @property
  def longest_text(self) -> int:
    """Number of tokens of the longest caption."""
    return max(source.longest_text for source in self._sources)

  def pad_to(self, length: int) -> None:
    """Sets the number of tokens of all texts."""
    for source in self._sources:
      source.pad_to(length)

  def null_text(self):
    """Embedding and mask of the empty prompt."""
    return self._sources[0].null_text()

  def _place(self, index):
    """(number of the source, index in it)."""
    part = int(np.searchsorted(self._ends, index, side='right'))
    return part, int(index) - (int(self._ends[part - 1]) if part else 0)
