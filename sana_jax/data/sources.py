"""Opens a source of captioned images by name.

A source is anything with a length and random access to dicts of
'image' (uint8 [y x 3]), 'caption' (str) and 'index' (int).
"""

import os
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sana_jax.data import captions, files, filters, folder
from sana_jax.data.records import MAX_BAD_FRACTION
from sana_jax.data.remembered import CACHE
from sana_jax.data.tfds import prepared, TfdsSource
from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.typing import Float, Int

KINDS = ('shapes', 'tfds', 'folder', 'webdataset', 'parquet', 'arrayrecord')


@runtime_checkable
class Source(Protocol):
  """Records by number."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any]: ...


@runtime_checkable
class DrawnSource(Source, Protocol):
  """One whose records have several captions: each `draw` chooses one."""

  def at(self, index: int, draw: int) -> dict[str, Any]: ...


@runtime_checkable
class DescribedSource(DrawnSource, Protocol):
  """One that knows its images without decoding them: all of `open_source`.

  `whole(index)` has all 'captions' of a record by name, with their 'scores'.
  """

  def whole(self, index: int) -> dict[str, Any]: ...

  def sizes(self) -> Int[np.ndarray, 'n 2']:
    """(height, width) as stored; 0 for headers that cannot be read."""

  def scores(self) -> Float[np.ndarray, 'n']:
    """CLIP scores that filters compare; NaN where there is none."""


def open_source(
  kind: str,
  *,
  path: str | os.PathLike,
  size: int | None,
  split: str = 'train',
  train_examples: int = 24_000,
  seed: int = 0,
  max_bad_fraction: float = MAX_BAD_FRACTION,
  columns: dict[str, str] | None = None,
  rule: captions.CaptionRule | None = None,
  min_score: float = 0.0,
  min_size_px: int = 0,
  max_aspect_ratio: float = 0.0,
  cache: str | os.PathLike | None = CACHE,
) -> DescribedSource:
  """The source `kind`, its images `size` pixels a side, or as stored.

  shapes: drawn into `path` the first time, with `train_examples` of `seed`;
    `split` is 'train' or 'heldout'.
  tfds: `path` is a prepared data set's version folder (which holds
    features.json) with features 'image' and 'caption'; `split` as in TFDS.
  folder: images of `path` with captions beside them, see folder.py.
  webdataset, parquet, arrayrecord: files by a pattern or in a folder, see the
    modules of that name; `columns` are fields of parquet.Columns.

  The last three and folder have no splits. Captions are chosen by `rule`, with
  `seed`; what filters.kept drops is left out. What was found out about files
  is kept in `cache`.
  """
  source = _opened(
    kind,
    path,
    size,
    split,
    (train_examples, seed),
    columns or {},
    dict(max_bad_fraction=max_bad_fraction, cache=cache),
  )
  source = filters.kept(
    source,
    min_score=min_score,
    min_size_px=min_size_px,
    max_aspect_ratio=max_aspect_ratio,
  )
  return captions.Captioned(source, rule or captions.CaptionRule(), seed)


def _opened(kind, path, size, split, drawn, columns, limits):
  """The source as its files are: unfiltered, without a choice of captions."""
  if size is not None and size < 1:
    raise UserError(
      f'size={size} is not an image size; set it to the side '
      'in pixels, at least 1.'
    )
  match kind:  # What takes seconds to import is imported if it is used.
    case 'shapes':
      if size is None:
        raise UserError(
          'size=None is for images as they are stored, and '
          'shapes are drawn at one; set it.'
        )
      from sana_jax.data.shapes import builder

      stored = builder.prepare(path, size, *drawn)
      return TfdsSource(stored, split, size, limits['cache'])
    case 'tfds':
      return TfdsSource(prepared(path), split, size, limits['cache'])
    case 'folder':
      return folder.FolderSource(path, size, **limits)
    case 'webdataset':
      from sana_jax.data.webdataset import WebDatasetSource

      return WebDatasetSource(path, size, **limits)
    case 'parquet':
      from sana_jax.data.parquet import Columns, ParquetSource

      return ParquetSource(path, size, Columns(**columns), **limits)
    case 'arrayrecord':
      from sana_jax.data.arrayrecord import ArrayRecordSource

      return ArrayRecordSource(path, size, **limits)
    case _:
      raise UserError(
        f'Source {kind!r} is unknown; choose one of {", ".join(KINDS)}.'
      )


def listing(kind: str, path: str | os.PathLike) -> dict[str, tuple[int, str]]:
  """(size, version) by path of the files that the source `kind` opens.

  What lies among them and is not opened is left out; so are images that
  Parquet files name by their path.
  """
  path = expanded(path)
  match kind:
    case 'folder':
      return folder.listing(path)
    case 'webdataset':
      from sana_jax.data import webdataset

      return webdataset.listing(path)
    case 'parquet':
      from sana_jax.data import parquet

      return files.expand(path, parquet.NAMES)
    case 'arrayrecord':
      from sana_jax.data import arrayrecord

      return files.expand(path, arrayrecord.NAMES)
  return files.expand(path, ('*.json', '*-of-*'))  # Prepared by TFDS.
