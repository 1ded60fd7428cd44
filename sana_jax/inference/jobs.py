"""Prompt files: a job per line, and the lines that cannot be used.

  .txt      a prompt a line
  .jsonl    {"prompt": "a cat", "seed": 3, "height": 768, "width": 1344}
  .csv      a header line with the same names
  .parquet  columns with the same names

The command's flags are the defaults. A line that cannot be used is a Problem.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

from sana_jax.errors import UserError
from sana_jax.inference import rows
from sana_jax.printable import printable
from sana_jax.text import prompts

FORMATS = rows.FORMATS
MOST_SIDE = 2**14
MOST_PIXELS = 2**26  # Pillow warns of pictures that are a third larger.
MOST_CHARACTERS = 2**16  # Of a prompt; models use 300 tokens of it.
MOST_IMAGES = 10_000  # Of a prompt.
MOST_PICTURES = 10**7  # Of a run, as their list is in memory.
MOST_BAD = 10**5  # Lines; a file with more is not a prompt file.
_WHOLE = {
  'seed': (0, 2**31 - 1),
  'height': (1, MOST_SIDE),
  'width': (1, MOST_SIDE),
  'num_images': (1, MOST_IMAGES),
}


@dataclasses.dataclass(frozen=True)
class Job:
  """Pictures of one line; sizes in pixels, None for the model's own."""

  prompt: str
  negative_prompt: str = ''
  seed: int = 0
  height: int | None = None
  width: int | None = None
  num_images: int = 1
  line: int = 1


class Problem(NamedTuple):
  """A line that cannot be used; reason and text are printable and short."""

  line: int
  reason: str
  text: str

  def __str__(self):
    return f'line {self.line}: {self.reason}'


KEYS = tuple(f.name for f in dataclasses.fields(Job) if f.name != 'line')


def read(path: str, default: Job) -> tuple[list[Job], list[Problem]]:
  """(jobs in order, lines that cannot be used).

  Raises UserError if the file cannot be read or has no job.
  """
  jobs, problems, pictures = [], [], 0
  for row in rows.read(path, KEYS):
    try:
      jobs.append(
        parse(row.values(), dataclasses.replace(default, line=row.line))
      )
      pictures += jobs[-1].num_images
    except UserError as e:
      problems.append(problem(row.line, e, row.text))
    if len(problems) > MOST_BAD:
      raise UserError(
        f'--prompts={path} has more than {MOST_BAD:,} lines that '
        f'cannot be used; the first is {problems[0]}'
      )
    if pictures > MOST_PICTURES:
      raise UserError(
        f'--prompts={path} requests more than {MOST_PICTURES:,} '
        'pictures; split it.'
      )
  if not jobs:
    raise UserError(
      f'--prompts={path} '
      + (
        f'has no line that can be used: {problems[0]}'
        if problems
        else 'is empty; give one prompt a line.'
      )
    )
  return jobs, problems


def problem(line: int, reason: object, text: str) -> Problem:
  """A Problem with its reason and text truncated and escaped."""
  return Problem(line, printable(reason, 300), printable(text, 100))


def parse(row: Mapping[str, Any], default: Job) -> Job:
  """The job of a line's values, without blank ones.

  Raises UserError that names the key.
  """
  given = {
    k: v
    for k, v in row.items()
    if not (v is None or isinstance(v, str) and not _stripped(v))
  }
  if unknown := sorted(str(k) for k in set(given) - set(KEYS)):
    raise UserError(
      f'unknown key {printable(unknown[0], 60)!r}; allowed are '
      f'{", ".join(KEYS)}.'
    )
  if 'prompt' not in given:
    raise UserError('the prompt is empty.')
  for key, value in given.items():
    given[key] = _whole(key, value) if key in _WHOLE else _text(key, value)
  return dataclasses.replace(default, **given)


def check_area(height: int, width: int) -> None:
  """Raises UserError for a picture too large to be read back."""
  if height * width > MOST_PIXELS:
    raise UserError(
      f'height x width is {height} x {width}; it must be '
      f'{MOST_PIXELS:,} pixels or less.'
    )


def _whole(key, value):
  least, most = _WHOLE[key]
  try:
    number = int(value)
    if isinstance(value, bool) or number != float(value):
      raise ValueError
  except (TypeError, ValueError, OverflowError):
    number = None
  if number is None or not least <= number <= most:
    raise UserError(
      f'{key} is {_shown(value)}; it must be a whole number from '
      f'{least} to {most}.'
    )
  return number


def _text(key, value):
  if not isinstance(value, str):
    raise UserError(f'{key} is {_shown(value)}; it must be text.')
  if len(value) > MOST_CHARACTERS:
    raise UserError(
      f'{key} has {len(value):,} characters; at most '
      f'{MOST_CHARACTERS:,} are allowed.'
    )
  prompts.check(value, key)
  if '\0' in value:
    raise UserError(
      f'{key} has a NUL character; a UTF-16 file must be saved as UTF-8.'
    )
  return _stripped(value)


def _stripped(text):
  """Text without white space and byte order marks at its ends."""
  return text.strip().strip('\ufeff').strip()


def _shown(value):
  # Representations of lists and objects may be of any depth.
  if isinstance(value, str | int | float):
    return printable(repr(value), 60)
  return {list: 'a list', dict: 'an object'}.get(
    type(value), f'of type {type(value).__name__}'
  )
