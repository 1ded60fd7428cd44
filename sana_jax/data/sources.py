"""Sources of captioned images, opened by kind.

A source has a length and random access to dicts of 'image' (uint8 [y x 3]),
'caption' (str) and 'index' (int).
"""

import os
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sana_jax.data import captions, files, filters, folder, pairs
from sana_jax.data.array_cache import CACHE
from sana_jax.data.records import MAX_BAD_FRACTION
from sana_jax.data.tags import Tagged, TagRule
from sana_jax.data.tfds import prepared, TfdsSource
from sana_jax.errors import did_you_mean, UserError
from sana_jax.paths import expanded
from sana_jax.typing import Float, Int

KINDS = (
  'shapes',
  'tfds',
  'folder',
  'kohya',
  'pairs',
  'webdataset',
  'parquet',
  'arrayrecord',
)
FOLDERS = ('folder', 'kohya')


@runtime_checkable
class Source(Protocol):
  """Random access to records."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any]: ...


@runtime_checkable
class DrawnSource(Source, Protocol):
  """Source of records with several captions, of which `draw` selects one."""

  def at(self, index: int, draw: int) -> dict[str, Any]: ...


@runtime_checkable
class DescribedSource(DrawnSource, Protocol):
  """Source with metadata of its images, as `open_source` returns."""

  def with_all_captions(self, index: int) -> dict[str, Any]:
    """The record with all its 'captions' by name, and their 'scores'."""

  def sizes(self) -> Int[np.ndarray, 'n 2']:
    """(height, width) as stored; 0 for unreadable headers."""

  def scores(self) -> Float[np.ndarray, 'n']:
    """CLIP scores that filters compare; NaN if there are none."""

  def repeats(self) -> Int[np.ndarray, 'n']:
    """Relative frequency of each record in training."""


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
  tags: TagRule | None = None,
  prompt: str = '',
  masks: str = '',
  min_score: float = 0.0,
  min_size_px: int = 0,
  max_aspect_ratio: float = 0.0,
  cache: str | os.PathLike | None = CACHE,
) -> DescribedSource:
  """Opens a source; its images have sides of `size` pixels, or are as stored.

  shapes: rendered to `path` the first time, with `train_examples` of `seed`;
    `split` is 'train' or 'heldout', or 'train_free' or 'heldout_free' for
    free positions.
  tfds: `path` is a prepared data set's version folder (with features.json),
    with features 'image' and 'caption'; `split` as in TFDS.
  folder, kohya: images in `path` with caption files, or `prompt` as caption,
    and `masks`, see folder.py.
  pairs: two images of each prompt, see pairs.py.
  webdataset, parquet, arrayrecord: files by a pattern or in a folder, see the
    modules of that name; `columns` are fields of parquet.Columns.

  The last three and folders have no splits. `tags` changes captions, `rule`
  chooses among them, with `seed`; filters.filtered drops records; metadata of
  files is stored in `cache`.
  """
  of_folders = dict(prompt=prompt, masks=masks)
  _check_folders(kind, of_folders)
  source = _opened(
    kind,
    path,
    size,
    split,
    (train_examples, seed),
    columns or {},
    dict(max_bad_fraction=max_bad_fraction, cache=cache),
    of_folders,
  )
  source = filters.filtered(
    source,
    min_score=min_score,
    min_size_px=min_size_px,
    max_aspect_ratio=max_aspect_ratio,
  )
  if tags and (tags.trigger or tags.orders):
    source = Tagged(source, tags)
  return captions.Captioned(source, rule or captions.CaptionRule(), seed)


def _check_folders(kind, given):
  """Raises UserError for values that only folders use."""
  keys = {'prompt': 'instance_prompt', 'masks': 'masks'}
  for name, value in given.items():
    if value and kind not in FOLDERS:
      raise UserError(
        f'config.data.{keys[name]}={value!r} is for folders of images, and '
        f"config.data.source is {kind!r}; set it to 'folder' or 'kohya'.",
        key=f'data.{keys[name]}',
        value=value,
        allowed=FOLDERS,
      )


def _opened(kind, path, size, split, drawn, columns, limits, of_folders):
  """The source before filtering and the choice of captions."""
  if size is not None and size < 1:
    raise UserError(
      f'size={size} is not an image size; set it to the side '
      'in pixels, at least 1.',
      key='data.size_px',
      value=size,
      allowed='1 or more',
    )
  match kind:  # Modules that take seconds to import are imported on use.
    case 'shapes':
      if size is None:
        raise UserError(
          'size=None is for stored images, and '
          'shapes are rendered at a given size; set it.',
          key='data.size_px',
          value=size,
          allowed='1 or more',
        )
      from sana_jax.data.shapes import builder

      split, _, layout = split.partition('_')
      stored = builder.prepare(path, size, *drawn, layout=layout or 'grid')
      return TfdsSource(stored, split, size, limits['cache'])
    case 'tfds':
      return TfdsSource(prepared(path), split, size, limits['cache'])
    case 'folder' | 'kohya':
      return folder.FolderSource(
        path, size, **limits, **of_folders, kohya=kind == 'kohya'
      )
    case 'pairs':
      return pairs.PairSource(path, size, **limits)
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
        f'Source {kind!r} is unknown{did_you_mean(kind, KINDS)}; choose one of '
        f'{", ".join(KINDS)}.',
        key='data.source',
        value=kind,
        allowed=KINDS,
      )


def listing(
  kind: str, path: str | os.PathLike, prompt: str = ''
) -> dict[str, tuple[int, str]]:
  """(size, version) of the files that the source `kind` opens, by path.

  Excludes other files in the same folders, and images whose paths are in
  Parquet files. `prompt` is that of `open_source`.
  """
  path = expanded(path)
  match kind:
    case 'folder' | 'kohya':
      return folder.listing(path, bool(prompt) or kind == 'kohya')
    case 'pairs':
      return pairs.listing(path)
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
