"""Latents and text embeddings of a data set, computed once and read at random.

  about.json           what made it, see tasks/sana/caching.py
  null.safetensors     the empty prompt's text, where text is kept
  00007.safetensors    the records of a shard
  index.safetensors    where each record lies, with a checksum of its own;
                       written last: all is there

A shard has the latents of each aspect ratio, `latents/BUCKET` [k y x c], the
embeddings `text` [tokens e] of its different captions one behind the other
without padding, all captions and scores as JSON in `said`, and its part of the
index. Records are read by ranges of bytes and compared with the checksums of
the index. They have the source's own numbers; one that could not be used keeps
its place, without captions, so that the order of training is the same as with
the source itself.
"""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any, NamedTuple
import zlib

import numpy as np
import safetensors.numpy

from sana_jax.data import captions, files
from sana_jax.data.columns import Columns
from sana_jax.data.images import in_threads
from sana_jax.data.records import BadRecord
from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.typing import Bool, Float, Int

INDEX, ABOUT, NULL = 'index.safetensors', 'about.json', 'null.safetensors'
# Of each record: the number that its caption is drawn by, and where things lie
# in its shard. The row is -1 where no latents are kept.
_OF_RECORDS = {
  'index': np.int64,
  'bucket': np.int32,
  'row': np.int32,
  'latents_crc': np.uint32,
  'said_crc': np.uint32,
  'said_start': np.int64,
  'said_end': np.int64,
  'texts_end': np.int64,
}
# Of each caption of each record, one record behind the other.
_OF_TEXTS = {'start': np.int64, 'end': np.int64, 'crc': np.uint32}
_CHECKSUM = 'checksum'
# What reading a damaged file raises.
DAMAGED = (OSError, ValueError, LookupError, TypeError)


class Record(NamedTuple):
  """What goes into a shard.

  Attributes:
    index: by which the source knows it, and from which captions are drawn.
    bucket: of its aspect ratio; -1 is none.
    captions, scores: all of them, by name; none for a bad record.
    latents: [y x c], or None.
  """

  index: int
  bucket: int
  captions: Mapping[str, str]
  scores: Mapping[str, float]
  latents: np.ndarray | None


def shard_name(number: int) -> str:
  """Of the file of a shard."""
  return f'{number:05d}.safetensors'


def pack_shard(
  records: Sequence[Record],
  texts: Mapping[str, Float[np.ndarray, 'm e']] | None,
) -> bytes:
  """The file of a shard.

  Args:
    texts: embeddings of every caption, without padding; None to keep none.
  """
  said = [_said(r.captions, r.scores) for r in records]
  bounds = np.cumsum([0, *map(len, said)])
  rows, columns = _by_bucket(records)
  references = []
  if texts and records:
    references, columns['text'] = _joined(records, texts)
  index = {
    'index': [r.index for r in records],
    'bucket': [r.bucket for r in records],
    'row': rows,
    'latents_crc': [
      0 if r.latents is None else _crc(r.latents) for r in records
    ],
    'said_crc': [_crc(text) for text in said],
    'said_start': bounds[:-1],
    'said_end': bounds[1:],
    'texts_end': np.cumsum([len(r.captions) if texts else 0 for r in records]),
  }
  columns |= {
    f'record/{name}': np.asarray(index[name], dtype)
    for name, dtype in _OF_RECORDS.items()
  }
  columns |= {
    f'text/{name}': np.asarray([x[i] for x in references], dtype)
    for i, (name, dtype) in enumerate(_OF_TEXTS.items())
  }
  columns[_CHECKSUM] = _checksum(
    {name: columns[name] for name in _columns_of_index()}
  )
  columns['said'] = np.frombuffer(b''.join(said), np.uint8)
  return safetensors.numpy.save(columns)


def _said(named, scores):
  return json.dumps([dict(named), dict(scores)]).encode()


def _by_bucket(records):
  """The row of each record, and all latents by their column's name."""
  rows, latents = [], {}
  for record in records:
    if record.latents is None:
      rows.append(-1)
      continue
    same = latents.setdefault(f'latents/{record.bucket}', [])
    rows.append(len(same))
    same.append(record.latents)
  return rows, {name: np.stack(same) for name, same in latents.items()}


def _joined(records, texts):
  """(start, end, checksum) of each caption in all embeddings, and these."""
  bounds = np.cumsum([0, *map(len, texts.values())])
  places = {
    caption: (bounds[i], bounds[i + 1], _crc(rows))
    for i, (caption, rows) in enumerate(texts.items())
  }
  return [
    places[caption]
    for record in records
    for caption in record.captions.values()
  ], np.concatenate(list(texts.values()))


def pack_index(columns: Columns, shards: Sequence[str]) -> bytes:
  """The file that says where each record lies, of all shards in their order.

  Raises UserError for a damaged shard.
  """
  names = _columns_of_index()

  def part_of(shard):
    try:
      return _compared(columns, shard, names)
    except DAMAGED as error:
      raise UserError(
        f'The shard {shard} cannot be read ({error}); remove it '
        'and start again, which makes it anew.'
      ) from error

  parts = in_threads(part_of, shards)
  before = np.cumsum([0, *(len(part['text/start']) for part in parts)])
  for part, start in zip(parts, before):
    part['record/texts_end'] = part['record/texts_end'] + start
  index = {
    name: np.concatenate([part[name] for part in parts]) for name in names
  }
  index['record/shard'] = np.repeat(
    np.arange(len(parts), dtype=np.int32),
    [len(part['record/row']) for part in parts],
  )
  index[_CHECKSUM] = _checksum(index)
  return safetensors.numpy.save(index)


def pack_null(text: Float[np.ndarray, 'm e']) -> bytes:
  """The file of the empty prompt's text."""
  return safetensors.numpy.save(
    {'text': text, _CHECKSUM: _checksum({'text': text})}
  )


def read_null(columns: Columns) -> Float[np.ndarray, 'm e']:
  """The empty prompt's text; raises one of DAMAGED if it is."""
  return _compared(columns, NULL, ['text'])['text']


def read_index(columns: Columns) -> dict[str, np.ndarray]:
  """The columns of the index; raises one of DAMAGED if it is."""
  return _compared(columns, INDEX, [*_columns_of_index(), 'record/shard'])


def _compared(columns, file, names):
  """Columns of a file by name, as its checksum of them wants it."""
  found = {name: columns.rows(file, name) for name in names}
  # Older ones have none.
  if _CHECKSUM in columns.names(file) and (
    columns.rows(file, _CHECKSUM).tolist() != _checksum(found).tolist()
  ):
    raise ValueError('it differs from its checksum')
  return found


def _columns_of_index():
  return [
    *(f'record/{n}' for n in _OF_RECORDS),
    *(f'text/{n}' for n in _OF_TEXTS),
  ]


def _checksum(index):
  total = 0
  for name, column in sorted(index.items()):
    total = zlib.crc32(f'{name} {column.shape}'.encode(), total)
    total = zlib.crc32(np.ascontiguousarray(column).view(np.uint8), total)
  return np.asarray([total], np.uint32)


class CachedSource:
  """Records of 'caption' and of 'latents', 'text' and 'mask' where kept.

  `at(index, draw)` chooses among the captions as the source itself does. What
  differs from its checksum raises BadRecord.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    rule: captions.CaptionRule,
    seed: int = 0,
    want: Sequence[str] = ('latents', 'text'),
  ):
    """Args:
      rule: of the choice among captions, with the source's `seed`.
      want: what to read.

    Raises UserError where `path` holds no finished cache with it.
    """
    self.path = os.fspath(path).rstrip('/')
    self._columns = Columns(self.path)
    if not files.exists(f'{self.path}/{INDEX}'):
      raise UserError(
        f'{path} holds no finished cache (there is no {INDEX}); make it, or go '
        'on making it, with sana-jax data cache.'
      )
    index = self._whole(INDEX, lambda: read_index(self._columns))
    self._index = {
      name: index[f'record/{name}'] for name in (*_OF_RECORDS, 'shard')
    }
    self._texts = np.stack([index[f'text/{name}'] for name in _OF_TEXTS], 1)
    self._rule, self._seed, self._want = rule, seed, want
    self._length = self.longest_text
    has = {
      'latents': (self._index['row'] >= 0).any(),
      'text': len(self._texts) > 0,
    }
    if missing := [name for name in want if not has[name]]:
      raise UserError(
        f'{path} holds no {" and no ".join(missing)}; make a '
        'cache with them, or set config.inputs to online.'
      )

  def __len__(self) -> int:
    return len(self._index['row'])

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.at(index, 0)

  @property
  def usable(self) -> int:
    """Records that were not bad when the cache was made."""
    said = self._index['said_end'] - self._index['said_start']
    return int((said > len(_said({}, {}))).sum())

  @property
  def longest_text(self) -> int:
    """Tokens of the longest caption."""
    return int(max(self._texts[:, 1] - self._texts[:, 0], default=0))

  def pad_to(self, length: int) -> None:
    """Texts are cut or padded to so many tokens from now on."""
    self._length = length

  def buckets(self) -> list[Int[np.ndarray, '_']]:
    """The records of each bucket, up to the last one that has any."""
    of_each = self._index['bucket']
    return [
      np.flatnonzero(of_each == bucket)
      for bucket in range(int(of_each.max()) + 1)
    ]

  def null_text(self) -> tuple[Float[np.ndarray, 'm e'], Bool[np.ndarray, 'm']]:
    """The empty prompt's embedding and mask."""
    return self._whole(
      NULL, lambda: padded(read_null(self._columns), self._length)
    )

  def at(self, index: int, draw: int) -> dict[str, Any]:
    """The record with the caption that `draw` gives it."""
    entry = {name: int(column[index]) for name, column in self._index.items()}
    try:
      return self._read(entry, draw)
    except DAMAGED as error:
      raise BadRecord(
        f'record {index} in {self.path}/{shard_name(entry["shard"])}',
        str(error),
      ) from error

  def _whole(self, file, read):
    """What is read of a file without which nothing goes."""
    try:
      return read()
    except DAMAGED as error:
      raise UserError(
        f'{self.path}/{file} cannot be read ({error}); the sana-jax data cache '
        'that made the cache makes a damaged or missing one anew.'
      ) from error

  def _read(self, entry, draw):
    def rows(column, start, end, crc):
      found = self._columns.rows(
        shard_name(entry['shard']), column, int(start), int(end)
      )
      if _crc(found) != crc:
        raise ValueError(f'{column} differs from its checksum')
      return found

    named, scores = parse_json(
      rows(
        'said', entry['said_start'], entry['said_end'], entry['said_crc']
      ).tobytes()
    )
    if not named:
      raise ValueError('it was bad when the cache was made')
    if not (
      isinstance(named, dict)
      and isinstance(scores, dict)
      and all(isinstance(text, str) for text in named.values())
    ):
      raise ValueError('its captions are no objects of texts')
    name = captions.drawn(
      named, scores, self._rule, (self._seed, entry['index'], draw)
    )
    out = {'caption': named[name]}
    if 'latents' in self._want:
      row = entry['row']
      (out['latents'],) = rows(
        f'latents/{entry["bucket"]}', row, row + 1, entry['latents_crc']
      )
    if 'text' in self._want:
      first = entry['texts_end'] - len(named)
      place = self._texts[first + list(named).index(name)]
      out['text'], out['mask'] = padded(rows('text', *place), self._length)
    return out


def padded(
  text: Float[np.ndarray, 'k e'], length: int
) -> tuple[Float[np.ndarray, '{length} e'], Bool[np.ndarray, '{length}']]:
  """Text with zeros behind it, cut where it is longer, and its mask."""
  out = np.zeros((length, text.shape[1]), text.dtype)
  out[: len(text)] = text[:length]
  return out, np.arange(length) < len(text)


def _crc(data):
  if not isinstance(data, bytes):
    data = np.ascontiguousarray(data).view(np.uint8)
  return zlib.crc32(data)
