"""Prompt files: a job per line, and the lines that cannot be used.

  .txt      a prompt a line
  .jsonl    {"prompt": "a cat", "seed": 3, "height": 768, "width": 1344}
  .csv      a header line with the same names
  .parquet  columns with the same names

The command's flags are the defaults. A line that cannot be used is a Problem;
unknown columns are ignored with one warning.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import os
from typing import Any, NamedTuple

from absl import logging

from sana_jax.errors import did_you_mean, joined, UserError
from sana_jax.inference import names, ratios, rows
from sana_jax.printable import counted, printable
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
  'steps': (1, 1000),
  'padding_mask_crop': (0, MOST_SIDE),
}
_NUMBERS = {'guidance_scale': 1000.0, 'strength': 1.0, 'mask_blur': 1000.0}
SETTINGS = ('steps', 'guidance_scale', 'sampler')  # As Pipeline.draw has them,
# and so are these.
EDITS = ('image', 'strength', 'mask', 'mask_blur', 'padding_mask_crop')


@dataclasses.dataclass(frozen=True)
class Job:
  """Pictures of one line; sizes in pixels, None for the model's own.

  Attributes:
    steps, guidance_scale, sampler: None for those of the command.
    aspect_ratio: a text such as 16:9, instead of a size.
    scorer: name of the scorer that chooses among candidates, if any.
    image, mask: files from which the pictures start, see Pipeline.draw; paths,
      or descriptions of input_image.
    control_image: file of a ControlNet's image; of several, from the command.
    id, file: name of the pictures; `file` wins.
  """

  prompt: str
  negative_prompt: str = ''
  seed: int = 0
  height: int | None = None
  width: int | None = None
  num_images: int = 1
  line: int = 1
  steps: int | None = None
  guidance_scale: float | int | None = None
  sampler: str | None = None
  aspect_ratio: str | None = None
  scorer: str | None = None
  control_image: str | Sequence[str] | None = None
  id: str | None = None
  file: str | None = None
  image: str | Mapping[str, str] | None = None
  mask: str | Mapping[str, str] | None = None
  strength: float | None = None
  mask_blur: float | int | None = None
  padding_mask_crop: int | None = None

  def settings(self) -> dict[str, Any]:
    """Settings of the line in place of the command's."""
    keys = SETTINGS
    if self.image is not None:  # Others would lack it.
      keys += EDITS if self.mask is not None else EDITS[:2]
    own = {key: getattr(self, key) for key in keys}
    return {key: value for key, value in own.items() if value is not None}

  def picture(self, number: int, suffix: str) -> str:
    """File name of one of the line's pictures, of the format `suffix`."""
    name = self.file or self.id
    if name is None:
      start = f'{self.line - 1:05d}-{number}'
      return f'{start}-{names.slug(self.prompt)}.{suffix}'
    return names.numbered(name, number, self.num_images, suffix)


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
  columns = rows.Columns(KEYS)
  for row in rows.read(path, columns):
    try:
      own = dataclasses.replace(default, line=row.line)
      jobs.append(parse(_rooted(row.values(), path), own))
      pictures += jobs[-1].num_images
    except UserError as e:
      problems.append(problem(row.line, e, row.text))
    if len(problems) > MOST_BAD:
      raise UserError(
        f'--prompts={path} has more than {MOST_BAD:,} lines that '
        f'cannot be used; the first is {problems[0]}',
        key='--prompts',
        value=path,
        allowed=f'at most {MOST_BAD}',
      )
    if pictures > MOST_PICTURES:
      raise UserError(
        f'--prompts={path} requests more than {MOST_PICTURES:,} '
        'pictures; split it.',
        key='--prompts',
        value=path,
        allowed=f'at most {MOST_PICTURES}',
      )
  _warn_of_unknown(path, columns)
  if not jobs:
    raise UserError(
      f'--prompts={path} '
      + (
        f'has no line that can be used: {problems[0]}'
        if problems
        else 'is empty; give one prompt a line.'
      ),
      key='--prompts',
      value=path,
      allowed='one prompt a line',
    )
  return jobs, problems


def problem(line: int, reason: object, text: str) -> Problem:
  """A Problem with its reason and text truncated and escaped."""
  return Problem(line, printable(reason, 300), printable(text, 100))


def parse(row: Mapping[str, Any], default: Job) -> Job:
  """The job of a line's values, without blank ones.

  Raises UserError with all problems of the line, each with its key.
  """
  given = {
    k: v
    for k, v in row.items()
    if not (v is None or isinstance(v, str) and not _stripped(v))
  }
  problems = []
  if 'prompt' not in given:
    problems.append(UserError('the prompt is empty.', key='prompt', value=''))
  for key, value in given.items():
    try:
      given[key] = _PARSERS.get(key, _whole)(key, value)
    except UserError as e:
      problems.append(e)
  if 'aspect_ratio' in given:
    if {'height', 'width'} & set(given):
      problems.append(
        UserError(
          'aspect_ratio and height or width are given; give one of the two.',
          key='aspect_ratio',
        )
      )
    default = dataclasses.replace(default, height=None, width=None)
  if not (given.get('image') or default.image):
    problems += [
      UserError(f'{key} is given, which needs an image.', key=key)
      for key in EDITS[1:]
      if key in given
    ]
  if problems:
    raise joined(problems) if len(problems) > 1 else problems[0]
  return dataclasses.replace(default, **given)


def _rooted(row, path):
  """The values of a line, whose files are relative to the prompt file."""
  folder = os.path.dirname(path)
  return row | {
    key: os.path.join(folder, row[key])
    for key in ('image', 'mask', 'control_image')
    if isinstance(row.get(key), str) and _stripped(row[key])
  }


def unique(
  jobs: Sequence[Job], suffix: str
) -> tuple[Sequence[Job], list[Problem]]:
  """(jobs, problems of those whose pictures have names of an earlier line)."""
  if not any(job.id or job.file for job in jobs):
    return jobs, []
  lines, kept, problems = {}, [], []
  for job in jobs:
    pictures = [job.picture(k, suffix) for k in range(job.num_images)]
    taken = [name for name in pictures if names.folded(name) in lines]
    if taken:
      line = lines[names.folded(taken[0])]
      reason = (
        f'its file name {_shown(taken[0])} is that of line {line}; give it an '
        'id or a file of its own.'
      )
      problems.append(problem(job.line, reason, job.prompt))
      continue
    lines |= {names.folded(name): job.line for name in pictures}
    kept.append(job)
  return kept, problems


def check_area(height: int, width: int) -> None:
  """Raises UserError for a picture too large to be read back."""
  if height * width > MOST_PIXELS:
    raise UserError(
      f'height x width is {height} x {width}; it must be '
      f'{MOST_PIXELS:,} pixels or less.',
      key='height',
      value=(height, width),
      allowed=f'at most {MOST_PIXELS} pixels',
    )


def _warn_of_unknown(path, columns):
  if not columns.unknown:
    return
  unknown = ', '.join(
    f'{printable(repr(name), 60)}{_hint(name)}' for name in columns.unknown
  )
  count = len(columns.unknown)
  logging.warning(
    '--prompts=%s: %s ignored: %s%s; known are %s.',
    path,
    counted(count, 'unknown column is', 'unknown columns are'),
    unknown,
    ' and more' if columns.more else '',
    ', '.join(KEYS),
  )


def _hint(name):
  # Most columns of tables are no misspelt ones.
  return did_you_mean(name[:60].lower(), KEYS, cutoff=0.65)


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
      f'{least} to {most}.',
      key=key,
      value=value,
      allowed=f'{least} to {most}',
    )
  return number


def _number(key, value):
  try:
    number = float(value)
    if isinstance(value, bool):
      raise ValueError
  except (TypeError, ValueError, OverflowError):
    number = math.nan
  most = _NUMBERS[key]
  if not 0 <= number <= most:
    raise UserError(
      f'{key} is {_shown(value)}; it must be a number from 0 to {most:g}.',
      key=key,
      value=value,
      allowed=f'0 to {most:g}',
    )
  return number


def _sampler(key, value):
  from sana_jax.diffusion import samplers  # It takes seconds to import.

  return samplers.named(_text(key, value)[:100])


def _ratio(key, value):
  text = _text(key, value)
  if ratios.parsed(text) is None:
    raise UserError(
      f'{key} is {_shown(value)}; it must be {ratios.ALLOWED}.',
      key=key,
      value=value,
      allowed=ratios.ALLOWED,
    )
  return text


def _name(key, value):
  """A text; a whole number is one too, as tables hold ids."""
  number = isinstance(value, float | int) and not isinstance(value, bool)
  if number and 0 <= value < 2**63 and value % 1 == 0:
    value = str(int(value))
  text = _text(key, value)
  names.check(key, text)
  return text


def _text(key, value):
  if not isinstance(value, str):
    raise UserError(
      f'{key} is {_shown(value)}; it must be text.',
      key=key,
      value=value,
      allowed='text',
    )
  if len(value) > MOST_CHARACTERS:
    raise UserError(
      f'{key} has {len(value):,} characters; at most '
      f'{MOST_CHARACTERS:,} are allowed.',
      key=key,
      value=len(value),
      allowed=f'at most {MOST_CHARACTERS} characters',
    )
  prompts.check(value, key)
  if '\0' in value:
    raise UserError(
      f'{key} has a NUL character; a UTF-16 file must be saved as UTF-8.',
      key=key,
      value=value,
      allowed='UTF-8',
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


_PARSERS = {
  'prompt': _text,
  'negative_prompt': _text,
  **dict.fromkeys(_NUMBERS, _number),
  'sampler': _sampler,
  'aspect_ratio': _ratio,
  'scorer': _text,
  'control_image': _text,
  'id': _name,
  'file': _name,
  'image': _text,
  'mask': _text,
}
