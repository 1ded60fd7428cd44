"""Index of the samples of a tar, from one sequential read.

A sample consists of the files whose path agrees up to the first dot of the
name, as in WebDataset: `a/0001.jpg` and `a/0001.json` are the sample `a/0001`.
`1.5.jpg` and `1.5.txt` are the sample `1.5`, as nothing else can use them.
"""

from collections.abc import Iterator
import dataclasses
import json
import os
import tarfile

import numpy as np

from sana_jax.data import facts, files
from sana_jax.data.images import HEADER_BYTES, header_size, SUFFIXES
from sana_jax.data.remarks import tally, unread
from sana_jax.printable import counted

_IMAGES = tuple(suffix[1:] for suffix in SUFFIXES)
_TEXTS = ('txt', 'json')
_LARGEST_TEXT = 2**22
_LARGEST_IMAGE = 2**28  # Bytes read at most to find an image's size.
_NOWHERE = (0, 0)
_SECOND = 'another image of the sample is used'
_DOTS = (
  'names with several dots are read only as an image and a caption that agree '
  'up to the last dot'
)
_LINK = 'links and devices in a tar are not read'


@dataclasses.dataclass
class _Sample:
  """Offsets and lengths of a sample's files, and what its texts contain.

  `dotted` is the first name of a sample whose key has dots; such files often
  belong to another sample, so that it needs an image and a caption.
  """

  dotted: str = ''
  image: tuple[int, int] = _NOWHERE
  txt: tuple[int, int] = _NOWHERE
  json: tuple[int, int] = _NOWHERE
  header: tuple[int, int] = (0, 0)
  texts: dict[str, bytes] = dataclasses.field(default_factory=dict)

  def is_whole(self) -> bool:
    return self.image[1] > 0 and max(self.txt[1], self.json[1]) > 0


def scan(path: str) -> dict[str, np.ndarray]:
  """Columns of a tar's samples, in the order of the tar.

  keys (bytes), image, txt and json (offset and length; 0 if there is none),
  sizes (height and width, 0 if damaged), scores (NaN if none), `broken`: the
  reason why the tar could not be read to its end, or '', and `unused`: the JSON
  of a tally of files that are not read. A truncated tar yields the samples
  before its end, of which the last may be truncated.
  """
  samples, unused, broken = {}, [], ''
  try:
    with files.open_ahead(path) as file:
      for member, parts in _members(file):
        if isinstance(parts, str):
          unused.append((parts, member.name))
        elif not _add(samples, *parts, member, file):
          unused.append((_SECOND, member.name))
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
  unused += [
    (_DOTS, sample.dotted)
    for sample in samples.values()
    if sample.dotted and not sample.is_whole()
  ]
  samples = {
    key: sample
    for key, sample in samples.items()
    if not sample.dotted or sample.is_whole()
  }
  return _columns(samples, broken, tally(unused))


def empty(reason: str) -> dict[str, np.ndarray]:
  """Columns of a tar that could not be opened."""
  return _columns({}, reason, {})


def _columns(samples, broken, unused):
  rows = list(samples.values())
  described = [_described(row) for row in rows]
  pairs = lambda values, kind: np.asarray(values, kind).reshape(len(rows), 2)
  return {
    'keys': np.asarray([os.fsencode(key) for key in samples], 'S'),
    'image': pairs([row.image for row in rows], np.int64),
    'txt': pairs([row.txt for row in rows], np.int64),
    'json': pairs([row.json for row in rows], np.int64),
    'sizes': pairs(
      [
        found.size if any(found.size) else row.header
        for found, row in zip(described, rows)
      ],
      np.int32,
    ),
    'scores': np.asarray(
      [facts.filter_score(found.scores) for found in described], np.float32
    ),
    'broken': np.asarray(broken),
    'unused': np.frombuffer(json.dumps(unused).encode(), np.uint8),
  }


def _described(row):
  """Facts of a sample's texts; unknown if they are damaged."""
  try:
    return facts.of_files(row.texts.get('txt'), row.texts.get('json'))[0]
  except ValueError:
    return facts.Facts()


def _members(file) -> Iterator[tuple[tarfile.TarInfo, tuple | str]]:
  """Yields members with their (key, suffix, is dotted), or why they are unused.

  Folders are skipped.
  """
  total = file.seek(0, os.SEEK_END)
  file.seek(0)
  with tarfile.open(fileobj=file, mode='r:') as tar:
    for member in tar:
      if member.size > total:
        raise tarfile.ReadError(f'a file of {member.size} bytes is declared')
      if member.isreg():
        yield member, _parts(member.name)
      elif not member.isdir():
        yield member, _LINK
    # tarfile treats any invalid header as the end.
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
      raise tarfile.ReadError(f'no header or end at byte {tar.offset}')


def _parts(path):
  """(key, suffix, whether the key has dots), or why it is unused."""
  folder, _, name = path.rpartition('/')
  if name.startswith('.'):
    return unread(name)
  for dotted, split in enumerate((str.partition, str.rpartition)):
    stem, _, suffix = split(name, '.')
    suffix = suffix.lower()
    if stem and suffix in (*_IMAGES, *_TEXTS):
      return f'{folder}/{stem}' if folder else stem, suffix, bool(dotted)
  return unread(name)


def _add(samples, key, suffix, dotted, member, file) -> bool:
  """Adds a file to its sample, unless another one takes its place."""
  sample = samples.setdefault(key, _Sample(member.name if dotted else ''))
  place = (member.offset_data, member.size)
  if suffix in _IMAGES:
    if sample.image != _NOWHERE:
      return False
    sample.image, sample.header = place, _size(file, place)
    return True
  setattr(sample, suffix, place)
  if member.size <= _LARGEST_TEXT:
    file.seek(place[0])
    sample.texts[suffix] = file.read(member.size)
  return True


def _size(file, place):
  """Size of an image from its header, most often in its first bytes."""
  start, length = place
  for end in sorted({min(HEADER_BYTES, length), min(_LARGEST_IMAGE, length)}):
    file.seek(start)
    size = header_size(file.read(end))
    if any(size):
      return size
  return 0, 0
