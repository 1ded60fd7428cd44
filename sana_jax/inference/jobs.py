"""Prompt files: one picture's wishes a line, in four formats.

  .txt      a prompt a line
  .jsonl    {"prompt": "a cat", "seed": 3, "height": 768, "width": 1344}
  .csv      a header line with the same names
  .parquet  columns with the same names

Whatever a line leaves out is the command's. A line that cannot be used is told
by its number and skipped.
"""

from collections.abc import Callable, Iterator, Mapping
import csv
import dataclasses
import io
import json
import pathlib
from typing import Any

from sana_jax.errors import UserError

FORMATS = ('.txt', '.jsonl', '.csv', '.parquet')
_WHOLE = {'seed': (0, 2**31 - 1), 'height': (1, 2**14), 'width': (1, 2**14),
          'num_images': (1, 10_000)}


@dataclasses.dataclass(frozen=True)
class Job:
  """What one line asks for; sizes in pixels, None for the model's own."""

  prompt: str
  negative_prompt: str = ''
  seed: int = 0
  height: int | None = None
  width: int | None = None
  num_images: int = 1
  line: int = 1


KEYS = tuple(f.name for f in dataclasses.fields(Job) if f.name != 'line')


def read(path: str, default: Job) -> tuple[list[Job], list[str]]:
  """(jobs in order, what was wrong with the lines that were skipped).

  Raises UserError where the file as a whole cannot be read or has no job.
  """
  jobs, problems = [], []
  for number, row in _rows(pathlib.Path(path)):
    try:
      row = row() if callable(row) else row
      jobs.append(parse(row, dataclasses.replace(default, line=number)))
    except UserError as e:
      problems.append(f'line {number}: {e}')
  if not jobs:
    raise UserError(f'--prompts={path} ' + (
      f'has no line that can be used: {problems[0]}' if problems else
      'is empty; give one prompt a line.'))
  return jobs, problems


def parse(row: Mapping[str, Any], default: Job) -> Job:
  """A job of a line's values; blank ones are left out.

  Raises UserError that names the key.
  """
  given = {k: v for k, v in row.items()
           if v is not None and str(v).strip() != ''}
  if unknown := sorted(str(k) for k in set(given) - set(KEYS)):
    raise UserError(f'unknown key {unknown[0]!r}; allowed are '
                    f'{", ".join(KEYS)}.')
  if 'prompt' not in given:
    raise UserError('the prompt is empty.')
  for key, value in given.items():
    given[key] = (_whole(key, value) if key in _WHOLE else _text(key, value))
  return dataclasses.replace(default, **given)


def _whole(key, value):
  least, most = _WHOLE[key]
  try:
    number = int(value)
    if isinstance(value, bool) or number != float(value):
      raise ValueError
  except (TypeError, ValueError, OverflowError):
    number = None
  if number is None or not least <= number <= most:
    raise UserError(f'{key} is {value!r}; it must be a whole number from '
                    f'{least} to {most}.')
  return number


def _text(key, value):
  if not isinstance(value, str):
    raise UserError(f'{key} is {value!r}; it must be text.')
  return value.strip()


def _rows(path: pathlib.Path) -> Iterator[tuple[int, Any]]:
  """(line number, mapping or a function that gives it)."""
  if path.suffix not in FORMATS:
    raise UserError(f'--prompts={path} must end in {", ".join(FORMATS)}.')
  if path.suffix == '.parquet':
    yield from _parquet(path)
    return
  text = _read_text(path)
  if path.suffix == '.csv':
    yield from _csv(path, text)
    return
  for number, line in enumerate(text.splitlines(), 1):
    if line.strip():
      yield number, (_json(line) if path.suffix == '.jsonl' else
                     {'prompt': line.strip()})


def _read_text(path):
  try:
    return path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as e:
    raise UserError(f'--prompts={path} is not UTF-8 (byte {e.start}); save it '
                    'as UTF-8 text.') from e
  except OSError as e:
    raise UserError(f'--prompts={path} cannot be read ({e.strerror}).') from e


def _json(line) -> Callable[[], Mapping[str, Any]]:
  def load():
    try:
      row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as e:
      raise UserError(f'no JSON ({e}).') from e
    if not isinstance(row, dict):
      raise UserError(f'{line.strip()[:40]!r} is no JSON object.')
    return row
  return load


def _csv(path, text):
  reader = csv.DictReader(io.StringIO(text, newline=''), restkey='surplus')
  try:
    if 'prompt' not in (reader.fieldnames or ()):
      raise UserError(f'--prompts={path} has no column named prompt; its first '
                      f'line is {text.partition(chr(10))[0][:60]!r}.')
    for row in reader:
      yield reader.line_num, row
  except csv.Error as e:
    raise UserError(f'--prompts={path} is no CSV ({e}, line '
                    f'{reader.line_num}).') from e


def _parquet(path):
  import pyarrow
  from pyarrow import parquet
  try:
    with parquet.ParquetFile(path) as file:
      if 'prompt' not in file.schema_arrow.names:
        raise UserError(f'--prompts={path} has no column named prompt, but '
                        f'{", ".join(file.schema_arrow.names)}.')
      keys = [k for k in file.schema_arrow.names if k in KEYS]
      number = 0
      for batch in file.iter_batches(columns=keys):
        for row in batch.to_pylist():
          number += 1
          yield number, row
  except (OSError, pyarrow.ArrowException) as e:
    reason = (str(e).strip().splitlines() or [''])[0]
    raise UserError(f'--prompts={path} cannot be read as Parquet ({reason}).'
                    ) from e
