"""Opens a source of captioned images by name.

A source is anything with a length and random access to dicts of
'image' (uint8 [y x 3]), 'caption' (str) and 'index' (int).
"""

import os
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sana_jax.data.folder import DAMAGED, FolderSource, read_image
from sana_jax.data.records import BadRecord, MAX_BAD_FRACTION
from sana_jax.errors import UserError

KINDS = ('shapes', 'tfds', 'folder')


@runtime_checkable
class Source(Protocol):
  """Records by number."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any]: ...


def open_source(
  kind: str,
  *,
  path: str | os.PathLike,
  size: int,
  split: str = 'train',
  train_examples: int = 24_000,
  seed: int = 0,
  max_bad_fraction: float = MAX_BAD_FRACTION,
) -> Source:
  """The source `kind`, its images `size` pixels a side.

  shapes: drawn into `path` the first time, with `train_examples` of `seed`;
    `split` is 'train' or 'heldout'.
  tfds: `path` is a prepared data set's version folder (which holds
    features.json) with features 'image' and 'caption'; `split` as in TFDS.
  folder: images of `path` with captions beside them, see folder.py; it has
    no splits.
  """
  if size < 1:
    raise UserError(f'size={size} is not an image size; set it to the side '
                    'in pixels, at least 1.')
  match kind:
    case 'shapes':
      from sana_jax.data.shapes import builder  # TFDS takes seconds to import.
      return TfdsSource(
        builder.prepare(path, size, train_examples, seed), split, size)
    case 'tfds':
      return TfdsSource(_prepared(path), split, size)
    case 'folder':
      return FolderSource(path, size, max_bad_fraction)
  raise UserError(f'Source {kind!r} is unknown; choose one of '
                  f'{", ".join(KINDS)}.')


class TfdsSource:
  """A prepared TFDS split; images are decoded by Pillow, not TensorFlow."""

  def __init__(self, builder: Any, split: str, size: int):
    import tensorflow_datasets as tfds
    missing = {'image', 'caption'} - set(builder.info.features)
    if missing:
      raise UserError(
        f'{builder.info.full_name} has no feature {", ".join(sorted(missing))}'
        f'; it has {", ".join(sorted(builder.info.features))}: choose data '
        'with image and caption.')
    name = split.split('[')[0]
    if name not in builder.info.splits:
      raise UserError(f'split={split!r} is not in {builder.info.full_name}; '
                      f'choose one of {", ".join(builder.info.splits)}.')
    self._name = f'{builder.info.full_name} {split}'
    self._size = size
    self._records = builder.as_data_source(
      split=split, decoders={'image': tfds.decode.SkipDecoding()})

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    try:
      record = self._records[index]
      caption = _text(record['caption'])
      return {'image': read_image(record['image'], self._size),
              'caption': caption, 'index': int(index)}
    # ArrayRecord raises RuntimeError for a damaged chunk, and trips over a
    # file cut short with AttributeError.
    except (*DAMAGED, RuntimeError, AttributeError) as error:
      raise BadRecord(f'{self._name} #{index}', str(error)) from error


def _prepared(path):
  import tensorflow_datasets as tfds
  path = os.fspath(path)
  if not os.path.exists(os.path.join(path, 'features.json')):
    raise UserError(f'{path} is no prepared TFDS data set; set the data path '
                    'to the folder that holds its features.json.')
  return tfds.builder_from_directory(path)


def _text(value):
  value = value.item() if isinstance(value, np.ndarray) else value
  return value.decode() if isinstance(value, bytes) else str(value)
