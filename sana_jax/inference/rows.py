"""Lines of prompt files in four formats, read one at a time with size limits.

A line ends only at a newline. The values of an unreadable line raise UserError;
the following lines are still read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import csv
import functools
import os
import pathlib
from typing import Any, BinaryIO, NamedTuple

from sana_jax.errors import UserError
from sana_jax.files import open_regular, parse_json
from sana_jax.printable import printable

FORMATS = ('.txt', '.jsonl', '.csv', '.parquet')
MOST_BYTES = 2**20  # Of a line.
_MOST_SKIPPED = 2**26  # Bytes of a line; a longer one is not text.
_MOST_IN_FILE = 2**32
_SHOWN = 1000  # Characters kept of a line, for reports.
_UNKNOWN = 20  # Columns kept, for the same.
_BROKEN = 'surrogateescape'  # A broken byte becomes half a surrogate pair.
_WIDE = (b'\xff\xfe', b'\xfe\xff', b'\0\0\xfe\xff')  # UTF-16 and UTF-32.
_ROWS = 1024  # Of Parquet in memory at a time.


class Row(NamedTuple):
  """A line: its number, the start of its text, and its values.

  `values` raises UserError if the line cannot be read.
  """

  line: int
  text: str
  values: Callable[[], Mapping[str, Any]]


class Columns:
  """Known columns of a file, and the unknown ones that were found in it.

  Attributes:
    known: names of the columns that are read.
    unknown: names of others, without repetition, of which some are kept.
    more: whether there are more.
  """

  def __init__(self, known: tuple[str, ...]):
    self.known, self.unknown, self.more = known, [], False

  def find(self, names: Iterable[str]) -> None:
    """Collects the unknown ones among the names of a file or a line."""
    for name in map(str, names):
      if name in self.known or name[:_SHOWN] in self.unknown:
        continue
      if len(self.unknown) < _UNKNOWN:
        self.unknown.append(name[:_SHOWN])
      else:
        self.more = True

  def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the known columns; the others are collected."""
    self.find(row)
    return {key: row[key] for key in self.known if key in row}


def read(path: str, columns: Columns) -> Iterator[Row]:
  """Lines that are not blank, with the values of the known columns.

  Raises:
    UserError: the file cannot be read.
  """
  suffix = pathlib.PurePath(path).suffix
  if suffix not in FORMATS:
    raise UserError(
      f'--prompts={path} must end in {", ".join(FORMATS)}.',
      key='--prompts',
      value=path,
      allowed=tuple(FORMATS),
    )
  try:
    with open_regular(path) as file:
      if os.fstat(file.fileno()).st_size > _MOST_IN_FILE:
        raise UserError(
          f'--prompts={path} has more than {_MOST_IN_FILE:,} bytes; split it.',
          key='--prompts',
          value=path,
          allowed=f'at most {_MOST_IN_FILE} bytes',
        )
      if suffix == '.parquet':
        yield from _parquet(path, file, columns)
        return
      if file.peek(4).startswith(_WIDE):
        raise UserError(
          f'--prompts={path} is UTF-16 or UTF-32; save it as UTF-8 text.',
          key='--prompts',
          value=path,
          allowed='UTF-8 text',
        )
      yield from _READERS[suffix](path, file, columns)
  except (OSError, ValueError) as e:
    if isinstance(e, UserError):
      raise
    # A restart reads the lines again, which a pipe does not allow.
    reason = e.strerror if isinstance(e, OSError) else e  # NUL in the path.
    raise UserError(
      f'--prompts={path} cannot be read ({reason}).',
      key='--prompts',
      value=path,
    ) from e


def lines(
  file: BinaryIO, most: int = MOST_BYTES
) -> Iterator[tuple[int, bytes, bool]]:
  """(line number, line, whether it is complete); truncated at `most` bytes."""
  number = 0
  while line := file.readline(most + 1):
    number += 1
    part = line
    while len(part) > most and not part.endswith(b'\n'):
      part = file.readline(most + 1)
    yield number, line[:most], len(line) <= most


def _txt(path, file, columns):
  del path, columns  # It has prompts only.
  for number, line, whole in lines(file):
    if text := _decoded(line):
      yield Row(number, text[:_SHOWN], functools.partial(_plain, text, whole))


def _plain(text, whole):
  _check_whole(whole)
  if '\r' in text:
    raise UserError(
      'a carriage return is inside the line; lines end with a newline.'
    )
  return {'prompt': text}


def _jsonl(path, file, columns):
  del path
  for number, line, whole in lines(file):
    if text := _decoded(line.strip()[:_SHOWN]):
      yield Row(number, text, functools.partial(_json, line, whole, columns))


def _json(line, whole, columns):
  _check_whole(whole)
  try:
    row = parse_json(line)
  except ValueError as e:
    raise UserError(f'no JSON ({e}).', value=line, allowed='JSON') from e
  if not isinstance(row, dict):
    raise UserError('it is no JSON object.', value=row, allowed='a JSON object')
  return columns.of(row)


def _decoded(line):
  # Files that were joined have a byte order mark in front of each.
  return line.decode('utf-8', _BROKEN).removeprefix('\ufeff').strip()


def _check_whole(whole):
  if not whole:
    raise UserError(
      f'the line has more than {MOST_BYTES} bytes.',
      allowed=f'at most {MOST_BYTES} bytes',
    )


class _Texts:
  """Decoded lines for csv.reader; too long ones raise csv.Error.

  It is not a generator, which would end at the first error.
  """

  def __init__(self, file):
    self._lines, self.number = lines(file), 0

  def __iter__(self):
    return self

  def __next__(self):
    self.number, line, whole = next(self._lines)
    if not whole:
      raise csv.Error(f'the line has more than {MOST_BYTES} bytes')
    text = line.decode('utf-8', _BROKEN)
    return text if self.number > 1 else text.removeprefix('\ufeff')


def _csv(path, file, columns):
  texts = _Texts(file)
  reader = csv.reader(texts, strict=True)
  names = _header(path, reader, columns)
  while True:
    first = texts.number + 1
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as e:
      span = f', from line {first} on' if first < texts.number else ''
      yield Row(
        texts.number, '', functools.partial(_fail, f'no CSV ({e}{span}).')
      )
      continue
    if cells:
      yield Row(
        texts.number,
        ','.join(cells)[:_SHOWN],
        functools.partial(_named, names, cells, columns),
      )


def _header(path, reader, columns):
  try:
    names = next(reader, [])
  except csv.Error as e:
    raise UserError(
      f'--prompts={path} is no CSV ({e}, line 1).', key='--prompts', value=path
    ) from e
  if 'prompt' not in names:
    raise UserError(
      f'--prompts={path} has no column named prompt; its first '
      f'line is {printable(",".join(names), 60)!r}.',
      key='prompt',
      value=names,
      allowed=('prompt',),
    )
  _check_once(path, [name for name in names if name in columns.known])
  columns.find(names)
  return names


def _check_once(path, names):
  if twice := sorted({n for n in names if names.count(n) > 1}):
    raise UserError(
      f'--prompts={path} has several columns named '
      f'{printable(twice[0], 60)!r}.',
      key=twice[0],
      value=path,
      allowed='one column of a name',
    )


def _named(names, cells, columns):
  if len(cells) > len(names):
    raise UserError(
      f'it has {len(cells)} cells for {len(names)} columns.',
      value=len(cells),
      allowed=f'at most {len(names)} cells',
    )
  return columns.of(dict(zip(names, cells)))


def _fail(reason):
  raise UserError(reason)


def _parquet(path, file, columns):
  import pyarrow
  from pyarrow import parquet

  try:
    with parquet.ParquetFile(file) as table:
      names = table.schema_arrow.names
      if 'prompt' not in names:
        raise UserError(
          f'--prompts={path} has no column named prompt, but '
          f'{printable(", ".join(names), 200)}.',
          key='prompt',
          value=names,
          allowed=('prompt',),
        )
      used = [name for name in names if name in columns.known]
      columns.find(names)
      _check_once(path, used)
      for name in used:
        _check_type(path, table.schema_arrow.field(name))
      number = 0
      for batch in table.iter_batches(_ROWS, columns=used):
        for i in range(batch.num_rows):
          number += 1
          cells = {name: batch.column(name)[i] for name in used}
          yield Row(
            number, _shown(cells['prompt']), functools.partial(_values, cells)
          )
  except (OSError, pyarrow.ArrowException) as e:
    reason = (str(e).strip().splitlines() or [''])[0]
    raise UserError(
      f'--prompts={path} cannot be read as Parquet ({printable(reason, 300)}).',
      key='--prompts',
      value=path,
    ) from e


def _check_type(path, field):
  from pyarrow import types

  kind = field.type
  if types.is_dictionary(kind):
    kind = kind.value_type
  plain = (
    types.is_string,
    types.is_large_string,
    types.is_integer,
    types.is_floating,
    types.is_decimal,
    types.is_boolean,
    types.is_null,
  )
  if not any(test(kind) for test in plain):
    raise UserError(
      f'--prompts={path} has the type {printable(kind, 60)} in '
      f'its column {field.name}; text and numbers are allowed.',
      key=field.name,
      value=str(kind),
      allowed='text and numbers',
    )


def _values(cells):
  try:
    return {name: cell.as_py() for name, cell in cells.items()}
  except UnicodeDecodeError as e:
    raise UserError(
      f'not UTF-8 at byte {e.start}.', value=e.start, allowed='UTF-8 text'
    ) from e


def _shown(cell):
  try:
    return str(cell.as_py())[:_SHOWN]
  except UnicodeDecodeError:
    return str(cell.as_buffer()[:_SHOWN].to_pybytes(), 'utf-8', _BROKEN)


_READERS = {'.txt': _txt, '.jsonl': _jsonl, '.csv': _csv}
