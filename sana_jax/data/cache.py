"""Cache of a data set's latents and text embeddings, with random access.

  about.json           its models and data, see tasks/sana/caching.py
  null.safetensors     text embedding of the empty prompt, if text is cached
  00007.safetensors    the records of a shard
  index.safetensors    location of each record, with checksums; written last, so
                       it marks a complete cache

A shard contains the latents of each aspect ratio, `latents/BUCKET` [k y x c],
the concatenated embeddings `text` [tokens e] of its distinct captions without
padding, all captions and scores as JSON in `said`, and its part of the index.
With masks, the last channel of the latents is the weight of their loss.
Records are read by byte ranges and compared with the checksums of the index.
They have the source's indices; unusable records keep their index, without
captions, so that the training order is the same as with the source.
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
# Columns of each record: the index that its caption is drawn by, and offsets
# in its shard. The row is -1 if there are no latents.
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
# Columns of each caption of each record, in the order of the records.
_OF_TEXTS = {'start': np.int64, 'end': np.int64, 'crc': np.uint32}
_CHECKSUM = 'checksum'
# Exceptions of reading a damaged file.
DAMAGED = (OSError, ValueError, LookupError, TypeError)


class Record(NamedTuple):
  """One record of a shard.

  Attributes:
    index: index in the source, which determines the drawn caption.
    bucket: index of its aspect ratio; -1 for none.
    captions, scores: all of them, by name; empty for a bad record.
    latents: [y x c], or None.
  """

  index: int
  bucket: int
  captions: Mapping[str, str]
  scores: Mapping[str, float]
  latents: np.ndarray | None


def shard_name(number: int) -> str:
  """File name of a shard."""
  return f'{number:05d}.safetensors'


def pack_shard(
  records: Sequence[Record],
  texts: Mapping[str, Float[np.ndarray, 'm e']] | None,
) -> bytes:
  """Content of a shard's file.

  Args:
    texts: embeddings of every caption, without padding; None to store none.
  """
  captions_json = [_captions_json(r.captions, r.scores) for r in records]
  bounds = np.cumsum([0, *map(len, captions_json)])
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
    'said_crc': [_crc(text) for text in captions_json],
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
  columns['said'] = np.frombuffer(b''.join(captions_json), np.uint8)
  return safetensors.numpy.save(columns)


def _captions_json(named, scores):
  return json.dumps([dict(named), dict(scores)]).encode()


def _by_bucket(records):
  """Row of each record, and the latents by column name."""
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
  """(start, end, checksum) of each caption, and the joined embeddings."""
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
  """Content of the index file: locations of the records of all shards.

  Raises UserError for a damaged shard.
  """
  names = _columns_of_index()

  def part_of(shard):
    try:
      return _compared(columns, shard, names)
    except DAMAGED as error:
      raise UserError(
        f'The shard {shard} cannot be read ({error}); remove it '
        'and start again, which rebuilds it.',
        value=shard,
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
  """Content of the file of the empty prompt's embedding."""
  return safetensors.numpy.save(
    {'text': text, _CHECKSUM: _checksum({'text': text})}
  )


def read_null(columns: Columns) -> Float[np.ndarray, 'm e']:
  """Embedding of the empty prompt; raises one of DAMAGED."""
  return _compared(columns, NULL, ['text'])['text']


def read_index(columns: Columns) -> dict[str, np.ndarray]:
  """Columns of the index; raises one of DAMAGED."""
  return _compared(columns, INDEX, [*_columns_of_index(), 'record/shard'])


def _compared(columns, file, names):
  """Columns of a file by name; raises ValueError if the checksum differs."""
  found = {name: columns.rows(file, name) for name in names}
  # Older files have no checksum.
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
  """Cached records: 'caption', and the stored 'latents', 'text' and 'mask'.

  Of masked data, the weights of the loss are in 'cells' [y x].

  `at(index, draw)` chooses among the captions as the source does. Data that
  differ from their checksum raise BadRecord.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    rule: captions.CaptionRule,
    seed: int = 0,
    want: Sequence[str] = ('latents', 'text'),
    masked: bool = False,
  ):
    """Opens a cache.

    Args:
      path: its folder.
      rule: choice among captions, with the source's `seed`.
      want: kinds of data to read.
      masked: whether the last channel of the latents weights their loss.

    Raises:
      UserError: `path` contains no complete cache with these data.
    """
    self.path = os.fspath(path).rstrip('/')
    self._columns = Columns(self.path)
    if not files.exists(f'{self.path}/{INDEX}'):
      raise UserError(
        f'{path} contains no complete cache (there is no {INDEX}); make or '
        'complete it with sana-jax data cache.',
        key='data.path',
        value=path,
        allowed=(INDEX,),
      )
    index = self._whole(INDEX, lambda: read_index(self._columns))
    self._index = {
      name: index[f'record/{name}'] for name in (*_OF_RECORDS, 'shard')
    }
    self._texts = np.stack([index[f'text/{name}'] for name in _OF_TEXTS], 1)
    self._rule, self._seed, self._want = rule, seed, want
    self._masked = masked
    self._length = self.longest_text
    has = {
      'latents': (self._index['row'] >= 0).any(),
      'text': len(self._texts) > 0,
    }
    if missing := [name for name in want if not has[name]]:
      raise UserError(
        f'{path} contains no {" and no ".join(missing)}; make a '
        'cache with them, or set config.inputs to online.',
        key='inputs',
        value=missing,
        allowed=[name for name in has if has[name]],
      )

  def __len__(self) -> int:
    return len(self._index['row'])

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.at(index, 0)

  @property
  def usable(self) -> int:
    """Number of records that were not bad when the cache was made."""
    lengths = self._index['said_end'] - self._index['said_start']
    return int((lengths > len(_captions_json({}, {}))).sum())

  @property
  def longest_text(self) -> int:
    """Number of tokens of the longest caption."""
    return int(max(self._texts[:, 1] - self._texts[:, 0], default=0))

  def pad_to(self, length: int) -> None:
    """Sets the number of tokens to which texts are truncated or padded."""
    self._length = length

  def buckets(self) -> list[Int[np.ndarray, '_']]:
    """Record indices of each bucket, up to the last non-empty one."""
    of_each = self._index['bucket']
    return [
      np.flatnonzero(of_each == bucket)
      for bucket in range(int(of_each.max()) + 1)
    ]

  def null_text(self) -> tuple[Float[np.ndarray, 'm e'], Bool[np.ndarray, 'm']]:
    """Embedding and mask of the empty prompt."""
    return self._whole(
      NULL, lambda: padded(read_null(self._columns), self._length)
    )

  def at(self, index: int, draw: int) -> dict[str, Any]:
    """The record, with the caption that `draw` selects."""
    entry = {name: int(column[index]) for name, column in self._index.items()}
    try:
      return self._read(entry, draw)
    except DAMAGED as error:
      raise BadRecord(
        f'record {index} in {self.path}/{shard_name(entry["shard"])}',
        str(error),
      ) from error

  def _whole(self, file, read):
    """Result of `read()`, which reads an essential file of the cache."""
    try:
      return read()
    except DAMAGED as error:
      raise UserError(
        f'{self.path}/{file} cannot be read ({error}); repeat the sana-jax '
        'data cache command that made the cache, which rebuilds the file.',
        value=f'{self.path}/{file}',
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
      raise ValueError('its captions are not objects of texts')
    name = captions.drawn(
      named, scores, self._rule, (self._seed, entry['index'], draw)
    )
    out = {'caption': named[name]}
    if 'latents' in self._want:
      row = entry['row']
      (out['latents'],) = rows(
        f'latents/{entry["bucket"]}', row, row + 1, entry['latents_crc']
      )
      if self._masked:
        out['cells'] = out['latents'][..., -1].astype(np.float32)
        out['latents'] = out['latents'][..., :-1]
    if 'text' in self._want:
      first = entry['texts_end'] - len(named)
      place = self._texts[first + list(named).index(name)]
      out['text'], out['mask'] = padded(rows('text', *place), self._length)
    return out


def padded(
  text: Float[np.ndarray, 'k e'], length: int
) -> tuple[Float[np.ndarray, '{length} e'], Bool[np.ndarray, '{length}']]:
  """Embeddings truncated or zero-padded to `length` tokens, and their mask."""
  out = np.zeros((length, text.shape[1]), text.dtype)
  out[: len(text)] = text[:length]
  return out, np.arange(length) < len(text)


def _crc(data):
  if not isinstance(data, bytes):
    data = np.ascontiguousarray(data).view(np.uint8)
  return zlib.crc32(data)
