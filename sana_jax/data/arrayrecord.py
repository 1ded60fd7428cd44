"""ArrayRecord files of images and captions, read by grain.

A record is one msgpack map:

  image     bytes of an image file
  caption   text; or `captions`, texts by name, see facts.of_json
  scores    CLIP scores by the caption's name (optional)
  height, width   of the image (optional; avoid decoding headers)

    writer = ArrayRecordWriter('0001.array_record', 'group_size:1')
    writer.write(msgpack.packb({'image': jpeg, 'caption': 'a cat'}))

Without group_size:1, reading one record reads its whole group.
"""

import bisect
import os
from typing import Any

from array_record.python import array_record_module
from grain.sources import ArrayRecordDataSource
import msgpack
import numpy as np

from sana_jax.data import captions, facts, files
from sana_jax.data.array_cache import cached_arrays, FAILED_READS
from sana_jax.data.images import DAMAGED, in_threads, try_size_of
from sana_jax.data.records import BadRecord, BadRecords, MAX_BAD_FRACTION
from sana_jax.data.remarks import Remarks, unread_beside
from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.typing import Float, Int

NAMES = ('*.array_record*', '*.arrayrecord*')
_VERSION = 2  # Version of the cached metadata.
# Exceptions of array_record and msgpack for damaged bytes.
_DAMAGED = (
  *DAMAGED,
  RuntimeError,
  AttributeError,
  KeyError,
  TypeError,
  msgpack.UnpackException,
)


class ArrayRecordSource:
  """Records of all files, in the order of the files.

  Files that cannot be opened, such as truncated ones, are skipped and counted
  in `bad`; a damaged record raises BadRecord when it is read.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    size: int | None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    cache: str | os.PathLike | None = None,
  ):
    path = expanded(path)
    if files.is_remote(path):
      raise UserError(
        f'{path} is remote, and ArrayRecord files are read from '
        'a disk only; mount or copy them, or use Parquet or tars '
        'there.',
        key='data.path',
        value=path,
        allowed='local files',
      )
    self._size, self._cache = size, cache
    self._files = files.expand(path, NAMES)
    self.remarks = Remarks()
    self.remarks.add_all(unread_beside(path, self._files))
    if not self._files:
      raise UserError(
        f'{path} matches no file; set the data path to '
        "ArrayRecord files like 'data/*.array_record' or to "
        f'their folder{self.remarks.summary()}.',
        key='data.path',
        value=path,
        allowed=NAMES,
      )
    counts = in_threads(_count, self._files)
    self.bad = BadRecords(
      max(sum(n for n, _ in counts), len(counts)), max_bad_fraction
    )
    self.bad.saw_good(sum(n for n, _ in counts))
    for name, (_, reason) in zip(self._files, counts):
      if reason:
        self.bad.add(BadRecord(name, reason))
    used = [(name, n) for name, (n, _) in zip(self._files, counts) if n]
    if not used:
      raise UserError(
        f'{path} contains no readable record.',
        key='data.path',
        value=path,
        allowed='1 record or more',
      )
    self._names = [name for name, _ in used]
    self._starts = np.cumsum([0, *(n for _, n in used)])
    # Given their lengths, grain need not open all of them again.
    self._records = ArrayRecordDataSource(
      [f'{name}[0:{n}]' for name, n in used]
    )

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, index: int) -> dict[str, Any]:
    try:
      content = self._content(index)
      found = facts.of_json(content)
      return captions.record(_image(content), found, index, self._size)
    except _DAMAGED as error:
      raise BadRecord(self._name(index), _reason(error)) from error

  def name(self, index: int) -> str:
    """File and number of a record."""
    return self._name(index)

  def sizes(self) -> Int[np.ndarray, 'n 2']:
    """(height, width) of the records, else of the images' headers."""
    return self._metadata()['sizes']

  def scores(self) -> Float[np.ndarray, 'n']:
    """CLIP scores that filters compare; NaN if there are none."""
    return self._metadata()['scores']

  def _metadata(self):
    def make():
      rows = in_threads(self._row, range(len(self)))
      sizes, scores, failed = zip(*rows)
      return {
        'sizes': np.asarray(sizes, np.int32),
        'scores': np.asarray(scores, np.float32),
        FAILED_READS: np.sum(failed),
      }

    # Files that could not be opened now may be readable later.
    key = [
      'arrayrecord',
      _VERSION,
      {name: self._files[name] for name in self._names},
    ]
    return cached_arrays(self._cache, key, make)

  def _row(self, index):
    """((height, width), score, whether reading failed); unknown if damaged."""
    try:
      content = self._content(index)
      found = facts.of_json(content)
      size, failed = facts.size_or(
        found.size, lambda: try_size_of(lambda end: _image(content)[:end])
      )
      return size, facts.filter_score(found.scores), failed
    except _DAMAGED as error:
      return (0, 0), float('nan'), isinstance(error, OSError)

  def _content(self, index):
    content = msgpack.unpackb(self._records[int(index)])
    if not isinstance(content, dict):
      raise ValueError("it is not a msgpack map with 'image' as bytes")
    return content

  def _name(self, index):
    file = bisect.bisect_right(self._starts, index) - 1
    return f'{self._names[file]} #{int(index) - int(self._starts[file])}'


def _image(content):
  if not isinstance(content.get('image'), bytes):
    raise ValueError("it is not a msgpack map with 'image' as bytes")
  return content['image']


def _count(path):
  """(records, '') of a file, or (0, the reason why it cannot be read)."""
  try:
    reader = array_record_module.ArrayRecordReader(path)
    try:
      if not reader.ok():
        return 0, 'not an ArrayRecord file, or a truncated one'
      return reader.num_records(), ''
    finally:
      reader.close()
  except _DAMAGED as error:
    return 0, _reason(error)


def _reason(error):
  return (str(error) or type(error).__name__).splitlines()[0]
