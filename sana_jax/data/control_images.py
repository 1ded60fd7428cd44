"""Control images of a source's records, as a source of their own.

They are made from the image in the size of its bucket, since thin edges vanish
when they are scaled, or read from a folder with the same file names.
"""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from sana_jax.data import annotators, buckets
from sana_jax.data.images import read_image
from sana_jax.data.records import BadRecord, name_of
from sana_jax.data.sources import DescribedSource
from sana_jax.files import read_bytes
from sana_jax.typing import Float, Int

_MOST_BYTES = 2**28
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp')


@dataclasses.dataclass(frozen=True)
class ControlImages:
  """Source whose images are control images; captions are the source's.

  Attributes:
    sizes_px: (height, width) of each bucket.
    of_records: bucket of each record; -1 for an unknown size.
    annotator: one of `annotators.NAMES`.
    path: folder of the images of `files`.
  """

  source: DescribedSource
  sizes_px: Sequence[tuple[int, int]]
  of_records: Int[np.ndarray, 'n']
  annotator: str
  path: str | os.PathLike = ''

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.at(index, 0)

  def at(self, index: int, draw: int) -> dict[str, Any]:
    return self._controlled(index, self.source.at(index, draw))

  def with_all_captions(self, index: int) -> dict[str, Any]:
    return self._controlled(index, self.source.with_all_captions(index))

  def name(self, index: int) -> str:
    return name_of(self.source, index)

  def sizes(self) -> Int[np.ndarray, 'n 2']:
    return self.source.sizes()

  def scores(self) -> Float[np.ndarray, 'n']:
    return self.source.scores()

  def _controlled(self, index, record):
    size = self.sizes_px[self.of_records[index]]
    if self.annotator == 'files':
      return record | {'image': buckets.fit(self._read(index), size)}
    fitted = record | {'image': buckets.fit(record['image'], size)}
    return record | {'image': annotators.of_record(self.annotator, fitted)}

  def _read(self, index):
    name = pathlib.PurePath(self.name(index)).stem
    for suffix in SUFFIXES:
      file = pathlib.Path(self.path) / f'{name}{suffix}'
      if file.is_file():
        try:
          return read_image(read_bytes(file, _MOST_BYTES))
        except (OSError, ValueError) as error:
          raise BadRecord(str(file), str(error)) from error
    raise BadRecord(self.name(index), f'{self.path} has no {name}.png')
