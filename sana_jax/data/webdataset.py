"""Tars of images and captions, with random access.

A sample is an image (see images.SUFFIXES) and a .txt with its caption, a .json
with its captions, or both, see facts.py. The official layout is supported too,
see wids.py.

Each tar is read once to build an index, which is cached; a sample is then one
ranged read, of a local or remote tar.
"""

import bisect
import os
import posixpath
import random
from typing import Any

from absl import logging
import numpy as np

from sana_jax.data import captions, facts, files, tars, wids
from sana_jax.data.array_cache import cached_arrays
from sana_jax.data.images import DAMAGED, in_threads, SUFFIXES
from sana_jax.data.records import BadRecord, BadRecords, MAX_BAD_FRACTION
from sana_jax.data.remarks import Remarks, summary, unread_beside
from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.paths import expanded
from sana_jax.printable import counted
from sana_jax.typing import Float, Int

_VERSION = 2  # Version of the cached index.
_GAP = 2**16  # Bytes between caption and image up to which one read is used.


class WebDatasetSource:
  """Samples of all shards, in the order of the shards.

  Samples without an image or a caption and truncated shards are skipped and
  counted in `bad`, other files in `remarks`; a damaged sample raises BadRecord
  when it is read.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    size: int | None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    cache: str | os.PathLike | None = None,
  ):
    path = expanded(path)
    self._size = size
    shards, listed_counts = _shards(path)
    sidecars = _sidecars(shards)
    self._names = list(shards)
    # Processes that share the cache share the work, as their orders differ.
    order = random.sample(self._names, len(self._names))
    columns = dict(
      zip(
        order,
        in_threads(
          lambda shard: _columns(shard, shards[shard], sidecars[shard], cache),
          order,
        ),
      )
    )
    self._columns = [columns[name] for name in self._names]
    total = sum(len(columns['keys']) for columns in self._columns)
    self.bad = BadRecords(max(total, len(shards)), max_bad_fraction)
    self._rows = [
      np.flatnonzero(_has_image(c) & _has_text(c)) for c in self._columns
    ]
    self.bad.saw_good(sum(map(len, self._rows)))
    self.remarks = Remarks()
    self._remark(path, [*shards, *(s for of in sidecars.values() for s in of)])
    for shard, name in enumerate(self._names):
      self._count_bad(shard, listed_counts.get(name))
    self._starts = np.cumsum([0, *map(len, self._rows)])
    if not len(self):
      raise UserError(
        f'{path} contains no sample with an image and a caption; shards need '
        f'{", ".join(SUFFIXES)} and a .txt or .json of the same name'
        f'{self.remarks.summary()}.',
        key='data.path',
        value=path,
        allowed='tars of images and captions',
      )

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, index: int) -> dict[str, Any]:
    shard, row = self._place(int(index))
    columns = self._columns[shard]
    try:
      image, *texts = self._read(
        shard, *(columns[kind][row] for kind in ('image', 'txt', 'json'))
      )
      found, remarks = facts.of_files(*texts, _more(columns, row))
      for remark in remarks:
        self.remarks.add(remark, self._name(shard, row))
      return captions.record(image, found, index, self._size)
    except DAMAGED as error:
      raise BadRecord(self._name(shard, row), str(error)) from error

  def name(self, index: int) -> str:
    """Shard and key of a record."""
    return self._name(*self._place(index))

  def sizes(self) -> Int[np.ndarray, 'n 2']:
    """(height, width) of the .json, else of the image's header."""
    return self._column('sizes')

  def scores(self) -> Float[np.ndarray, 'n']:
    """CLIP scores of the sidecars, else of the samples' .json, else NaN."""
    own = self._column('scores')
    more = self._column('more_scores')
    return np.where(np.isnan(more), own, more)

  def _column(self, name):
    return np.concatenate(
      [columns[name][rows] for columns, rows in zip(self._columns, self._rows)]
    )

  def _place(self, index):
    if not 0 <= index < len(self):
      raise IndexError(index)
    shard = bisect.bisect_right(self._starts, index) - 1
    return shard, int(self._rows[shard][index - self._starts[shard]])

  def _name(self, shard, row):
    key = self._columns[shard]['keys'][row].decode(errors='backslashreplace')
    return f'{self._names[shard]}: {key}'

  def _remark(self, path, used):
    for name, columns in zip(self._names, self._columns):
      found = parse_json(columns['unused'].tobytes(), halves=True)
      for reason, (count, first) in found.items():
        self.remarks.add(reason, f'{name}: {first}', count)
    self.remarks.add_all(unread_beside(path, [*used, wids.META]))

  def _count_bad(self, shard, listed_count):
    """Counts a truncated shard, and samples without an image or a text."""
    columns, name = self._columns[shard], self._names[shard]
    broken, found = str(columns['broken']), len(columns['keys'])
    if broken:
      self.bad.add(BadRecord(name, broken))
    elif listed_count not in (None, found):
      logging.warning(
        '%s contains %s; %s lists %d.',
        name,
        counted(found, 'sample'),
        wids.META,
        listed_count,
      )
    for row in np.flatnonzero(~_has_image(columns)):
      self.bad.add(BadRecord(self._name(shard, row), 'no image'))
    for row in np.flatnonzero(_has_image(columns) & ~_has_text(columns)):
      self.bad.add(BadRecord(self._name(shard, row), 'no .txt or .json'))

  def _read(self, shard, *places):
    """Bytes of each file or None, by one read of those close to each other."""
    spans = sorted(
      (int(start), int(start + length)) for start, length in places if length
    )
    reads = []
    for start, end in spans:
      if reads and start - reads[-1][1] <= _GAP:
        reads[-1][1] = end
      else:
        reads.append([start, end])
    data = {
      start: files.read(self._names[shard], start, end) for start, end in reads
    }
    return [_part(data, *map(int, place)) for place in places]


def listing(path: str) -> dict[str, tuple[int, str]]:
  """(size, version) of the shards and their sidecars."""
  shards, _ = _shards(path)
  for files_of_shard in _sidecars(shards).values():
    shards = shards | files_of_shard
  return shards


def _part(data, start, length):
  """Bytes of a file among reads by their start; None if it has none."""
  if not length:
    return None
  origin = max(place for place in data if place <= start)
  part = data[origin][start - origin : start - origin + length]
  if len(part) < length:
    raise ValueError(f'the tar ends {length - len(part)} bytes too early')
  return part


def _has_image(columns):
  return columns['image'][:, 1] > 0


def _has_text(columns):
  return (
    (columns['txt'][:, 1] > 0)
    | (columns['json'][:, 1] > 0)
    | (np.diff(columns['more_at']) > 0)
  )


def _more(columns, row):
  """Facts of a sample's sidecars."""
  start, end = columns['more_at'][row : row + 2]
  more = parse_json(columns['more'][start:end].tobytes()) if end > start else {}
  return facts.Facts(more.get('captions', {}), more.get('scores', {}))


def _shards(path):
  """((size, version) by path, listed numbers of samples by path)."""
  listed = path if path.endswith('.json') else ''
  if (
    not listed
    and not path.endswith('.tar')
    and files.exists(meta := f'{path.rstrip("/")}/{wids.META}')
  ):
    listed = meta
  if not listed:
    counts, found = {}, files.expand(path, ('*.tar',))
  else:
    counts = wids.shard_list(listed)
    stats = in_threads(lambda shard: files.expand(shard).values(), counts)
    # A missing shard is a bad record, not an error.
    found = {
      shard: next(iter(stat), (0, '')) for shard, stat in zip(counts, stats)
    }
  if not found:
    raise UserError(
      f'{path} matches no tar; set the data path to tars like '
      "'data/{0000..0099}.tar', to their folder or to a "
      f'{wids.META}{summary(unread_beside(path, ()))}.',
      key='data.path',
      value=path,
      allowed='tars',
    )
  return found, counts


def _sidecars(shards):
  """(size, version) of the sidecars of each shard, by path."""
  out = {shard: {} for shard in shards}
  for folder in sorted({posixpath.dirname(shard) for shard in shards}):
    here = {
      posixpath.basename(path): stat
      for path, stat in files.expand(f'{folder or "."}/*.json').items()
    }
    tars_here = [
      posixpath.basename(shard)
      for shard in shards
      if posixpath.dirname(shard) == folder
    ]
    for shard, names in wids.sidecars([*here, *tars_here]).items():
      out[posixpath.join(folder, shard)] = {
        posixpath.join(folder, name): here[name] for name in names
      }
  return out


def _columns(shard, stat, sidecars, cache):
  """Columns of a shard's samples and sidecars, from the cache if possible."""

  def make():
    logging.info('Indexing %s.', shard)
    columns = tars.scan(shard)
    keys = [os.fsdecode(key) for key in columns['keys']]
    return columns | wids.read_sidecars(list(sidecars), keys)

  key = ['tar', _VERSION, shard, stat, sidecars]
  try:
    return cached_arrays(cache, key, make)
  except OSError as error:  # It may be readable later.
    return tars.empty(str(error)) | wids.read_sidecars([], [])
