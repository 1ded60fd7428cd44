"""Data sets prepared by TFDS; images are decoded by Pillow."""

from collections.abc import Iterator
import os
from typing import Any

import numpy as np

from sana_jax.data import captions, facts
from sana_jax.data.array_cache import cached_arrays
from sana_jax.data.images import DAMAGED, header_sizes
from sana_jax.data.records import BadRecord
from sana_jax.errors import UserError
from sana_jax.fields import shown
from sana_jax.files import read_json
from sana_jax.typing import Float, Int

# ArrayRecord raises RuntimeError for a damaged chunk, and AttributeError for a
# truncated file.
_DAMAGED = (*DAMAGED, RuntimeError, AttributeError)


# TFDS would import, and so run, any other module named in features.json.
_FEATURES = tuple(
  f'tensorflow_datasets.core.features.{name}'
  for name in (
    'features_dict.FeaturesDict',
    'image_feature.Image',
    'text_feature.Text',
    'tensor_feature.Tensor',
    'scalar.Scalar',
    'class_label_feature.ClassLabel',
    'sequence_feature.Sequence',
    'bounding_boxes.BBoxFeature',
    'labeled_image.LabeledImage',
  )
)


class TfdsSource:
  """A prepared TFDS split; images are decoded by Pillow, not TensorFlow."""

  def __init__(
    self,
    builder: Any,
    split: str,
    size: int | None,
    cache: str | os.PathLike | None = None,
  ):
    import tensorflow_datasets as tfds

    missing = {'image', 'caption'} - set(builder.info.features)
    if missing:
      raise UserError(
        f'{builder.info.full_name} has no feature {", ".join(sorted(missing))}'
        f'; it has {", ".join(sorted(builder.info.features))}: choose data '
        'with image and caption.',
        key='data.path',
        value=sorted(builder.info.features),
        allowed=('image', 'caption'),
      )
    if not isinstance(builder.info.features['image'], tfds.features.Image):
      raise UserError(
        f'{builder.info.full_name} has the feature image as '
        f'{shown(builder.info.features["image"])}; choose data '
        'whose image is an Image.',
        key='features.image',
        value=builder.info.features['image'],
        allowed=(tfds.features.Image,),
      )
    name = split.split('[')[0]
    if name not in builder.info.splits:
      raise UserError(
        f'split={split!r} is not in {builder.info.full_name}; '
        f'choose one of {", ".join(builder.info.splits)}.',
        key='split',
        value=split,
        allowed=list(builder.info.splits),
      )
    self._name = f'{builder.info.full_name} {split}'
    self._size, self._cache = size, cache
    self._shape = builder.info.features['image'].shape
    self._key = [
      str(builder.data_path),
      split,
      builder.info.splits[name].num_bytes,
    ]
    try:
      self._records = builder.as_data_source(
        split=split, decoders={'image': tfds.decode.SkipDecoding()}
      )
    except Exception as error:  # TFDS raises anything for damaged files.
      raise UserError(
        f'{self._name} cannot be opened ({shown(str(error))}); choose data '
        'that TFDS has prepared as ArrayRecord.',
        key='data.path',
        value=self._name,
        allowed=('array_record',),
      ) from error

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    try:
      record = self._record(index)
      named = facts.named(facts.DEFAULT, record['caption'])
      found = facts.Facts(facts.usable(named))
      out = captions.record(record['image'], found, index, self._size)
      return out | {key: record[key] for key in ('scene',) if key in record}
    except _DAMAGED as error:
      raise BadRecord(self.name(index), str(error)) from error

  def name(self, index: int) -> str:
    """Data set, split and number of a record."""
    return f'{self._name} #{index}'

  def sizes(self) -> Int[np.ndarray, 'n 2']:
    """(height, width) of the features, else of the images' headers."""
    if all(self._shape[:2]):
      return np.tile(np.int32(self._shape[:2]), (len(self), 1))
    make = lambda: header_sizes(self._image, len(self))
    return cached_arrays(self._cache, ['tfds', *self._key], make)['sizes']

  def scores(self) -> Float[np.ndarray, 'n']:
    """CLIP scores: NaN, as TFDS has none."""
    return np.full(len(self), np.nan, np.float32)

  def _record(self, index):
    record = self._records[index]
    # ArrayRecord returns empty records of a file that was truncated after it
    # was opened.
    if not isinstance(record['image'], bytes):
      raise ValueError('it is empty: the file is cut short or damaged')
    return record

  def _image(self, index, end):
    try:
      return self._record(index)['image'][:end]
    except OSError:
      raise
    except _DAMAGED:
      return b''


def prepared(path: str | os.PathLike) -> Any:
  """Builder of a version folder."""
  import tensorflow_datasets as tfds

  path = os.fspath(path)
  if not os.path.exists(os.path.join(path, 'features.json')):
    raise UserError(
      f'{path} is not a prepared TFDS data set; set the data path '
      'to the folder with its features.json.',
      key='data.path',
      value=path,
      allowed=('features.json',),
    )
  features = os.path.join(path, 'features.json')
  for name in _classes(read_json(features, most=2**24)):
    if name not in _FEATURES:
      raise UserError(
        f'{features} names the feature {shown(name)}, which is '
        'not loaded: allowed are those of TFDS for images, texts '
        'and numbers.',
        key='features.json',
        value=name,
        allowed=_FEATURES,
      )
  try:
    return tfds.builder_from_directory(path)
  except Exception as error:  # TFDS raises anything for damaged files.
    raise UserError(
      f'{path} cannot be read as a prepared TFDS data set '
      f'({shown(str(error))}); prepare it again.',
      key='data.path',
      value=path,
    ) from error


def _classes(value: Any) -> Iterator[Any]:
  """Yields the names of the classes that TFDS would import."""
  if isinstance(value, dict):
    for key, child in value.items():
      if key in ('pythonClassName', 'python_class_name', 'type') and not (
        isinstance(child, dict)
      ):
        yield child
      yield from _classes(child)
  elif isinstance(value, list):
    for child in value:
      yield from _classes(child)
