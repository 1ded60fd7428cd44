"""Index of the samples of a tar, from one sequential read.

A sample consists of the files whose path agrees up to the first dot of the
name, as in WebDataset: `a/0001.jpg` and `a/0001.json` are the sample `a/0001`.
"""

from collections.abc import Iterator
import dataclasses
import os
import tarfile

import numpy as np

from sana_jax.data import captions, files
from sana_jax.data.images import (
  DAMAGED,
  HEADER_BYTES,
  header_size,
  SUFFIXES,
)
from sana_jax.files import parse_json
from sana_jax.printable import counted

_IMAGES = tuple(suffix[1:] for suffix in SUFFIXES)
_TEXTS = ('json', 'txt')  # The first one has priority.
_LARGEST_JSON = 2**22
_LARGEST_IMAGE = 2**28  # Bytes read at most to find an image's size.
_NOWHERE = (0, 0)


@dataclasses.dataclass
class _Sample:
  """Offsets and lengths of a sample's two files, and their metadata."""

  image: tuple[int, int] = _NOWHERE
  text: tuple[int, int] = _NOWHERE
  kind: str = ''
  size: tuple[int, int] = (0, 0)
  json_size: tuple[int, int] = (0, 0)
  score: float = float('nan')


def scan(path: str) -> dict[str, np.ndarray]:
  """Columns of a tar's samples, in the order of the tar.

  keys (bytes), image and text (offset and length; 0 if there is none),
  is_json, sizes (height and width, 0 if damaged), scores (NaN if none), and
  `broken`: the reason why the tar could not be read to its end, or ''. A
  truncated tar yields the samples before its end, of which the last may be
  truncated.
  """
  samples, broken = {}, ''
  try:
    with files.open_ahead(path) as file:
      for key, kind, member in _members(file):
        _add(samples.setdefault(key, _Sample()), kind, member, file)
  # tarfile recurses into headers of headers, and reads as much as they declare.
  except (
    tarfile.TarError,
    RecursionError,
    MemoryError,
    OverflowError,
    ValueError,
  ) as error:
    error = str(error) or type(error).__name__
    broken = (
      f'{error}, after {counted(len(samples), "sample")}'
      if samples
      else (f'not a tar, or a compressed one ({error})')
    )
  return _columns(samples, broken)


def empty(reason: str) -> dict[str, np.ndarray]:
  """Columns of a tar that could not be opened."""
  return _columns({}, reason)


def _columns(samples, broken):
  rows = list(samples.values())
  column = lambda name, kind, *shape: np.asarray(
    [getattr(row, name) for row in rows], kind
  ).reshape(len(rows), *shape)
  sizes = column('json_size', np.int32, 2)
  unknown = ~sizes.all(axis=1)
  sizes[unknown] = column('size', np.int32, 2)[unknown]
  return {
    'keys': np.asarray([os.fsencode(key) for key in samples], 'S'),
    'image': column('image', np.int64, 2),
    'text': column('text', np.int64, 2),
    'is_json': np.asarray([row.kind == 'json' for row in rows], bool),
    'sizes': sizes,
    'scores': column('score', np.float32),
    'broken': np.asarray(broken),
  }


def _members(file) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
  """Yields (key, suffix, member) of the images and texts."""
  total = file.seek(0, os.SEEK_END)
  file.seek(0)
  with tarfile.open(fileobj=file, mode='r:') as tar:
    for member in tar:
      if member.size > total:
        raise tarfile.ReadError(f'a file of {member.size} bytes is declared')
      folder, _, name = member.name.rpartition('/')
      stem, _, suffix = name.partition('.')
      suffix = suffix.lower()
      if member.isreg() and stem and suffix in (*_IMAGES, *_TEXTS):
        yield f'{folder}/{stem}' if folder else stem, suffix, member
    # tarfile treats any invalid header as the end.
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
      raise tarfile.ReadError(f'no header or end at byte {tar.offset}')


def _add(sample, suffix, member, file):
  place = (member.offset_data, member.size)
  if suffix in _IMAGES and sample.image == _NOWHERE:
    sample.image, sample.size = place, _size(file, place)
  elif suffix not in _IMAGES and sample.kind != _TEXTS[0]:
    sample.text, sample.kind = place, suffix
    if suffix == 'json':
      sample.json_size, sample.score = _described(file, place)


def _size(file, place):
  """Size of an image from its header, most often in its first bytes."""
  start, length = place
  for end in sorted({min(HEADER_BYTES, length), min(_LARGEST_IMAGE, length)}):
    file.seek(start)
    size = header_size(file.read(end))
    if any(size):
      return size
  return 0, 0


def _described(file, place):
  """((height, width), score) of a JSON; unknown if it is invalid."""
  unknown = (0, 0), float('nan')
  if place[1] > _LARGEST_JSON:
    return unknown
  file.seek(place[0])
  try:
    content = parse_json(file.read(place[1]))
    _, scores = captions.from_json(content)
    size = tuple(int(content.get(side) or 0) for side in ('height', 'width'))
  except (*DAMAGED, TypeError):
    return unknown
  size = size if min(size) > 0 and max(size) < 2**31 else (0, 0)
  return size, captions.filter_score(scores)
