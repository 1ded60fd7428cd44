"""Layouts of folders that other trainers read: kohya's, and metadata.jsonl.

kohya's scripts take captions and frequencies from the names of subfolders:

  pictures/10_sks dog/1.jpg    ten times as often as the next one, 'sks dog'
  pictures/1_dog/1.jpg

The captions of a Hugging Face image folder are lines of `metadata.jsonl`:

  {"file_name": "1.jpg", "text": "a dog"}
"""

from collections.abc import Iterable, Mapping
import posixpath
import re

from sana_jax.data import facts, files
from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.printable import printable

LINES = 'metadata.jsonl'
MOST_BYTES = 2**28  # Of a metadata.jsonl: a million lines.
MOST_REPEATS = 10_000
_NAMED = re.compile(r'([0-9]+)_(.*\S.*)')


def kohya(
  root: str, names: Iterable[str]
) -> tuple[dict[str, int], dict[str, str]]:
  """(repeats, prompt) of each image in subfolders like `10_word`.

  Raises UserError for an image in another folder.
  """
  found = {name: _parsed(root, name.rpartition('/')[0]) for name in names}
  return (
    {name: repeats for name, (repeats, _) in found.items()},
    {name: words for name, (_, words) in found.items()},
  )


def _parsed(root, folder):
  top = folder.partition('/')[0]
  match = _NAMED.fullmatch(top) if _is_text(top) else None
  if not match or not 1 <= int(match[1]) <= MOST_REPEATS:
    shown = f'The folder {printable(top, 80)!r}' if top else 'An image'
    raise UserError(
      f'{shown} in {root} has no number of repeats; name each folder like '
      "'10_sks dog', repeats from 1 and words, or set config.data.source to "
      "'folder'.",
      key='data.path',
      value=top,
      allowed='NUMBER_WORDS',
    )
  return int(match[1]), match[2].strip()


def _is_text(name):
  """Whether a name is UTF-8; other bytes are half surrogate pairs in it."""
  return not any('\ud800' <= c <= '\udfff' for c in name)


def described(root: str, names: Iterable[str]) -> Mapping[str, facts.Facts]:
  """Facts by image of the lines of every metadata.jsonl among `names`.

  Raises UserError for a line that is no object with a `file_name`.
  """
  out = {}
  for name in names:
    if posixpath.basename(name) == LINES:
      for number, line in lines_of(f'{root}/{name}'):
        image, found = _line(f'{root}/{name}', number, line)
        out[posixpath.join(posixpath.dirname(name), image)] = found
  return out


def lines_of(file: str) -> list[tuple[int, bytes]]:
  """(number, line) of the lines of a file that are not blank.

  Raises UserError if it cannot be read, or is too large.
  """
  try:
    data = files.read(file, 0, MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
      raise ValueError(f'it has more than {MOST_BYTES:,} bytes')
  except (OSError, ValueError) as error:
    raise UserError(
      f'{file} cannot be read ({printable(error, 200)}); write a JSON object '
      'in each line of a regular file.',
      key='data.path',
      value=file,
    ) from error
  lines = enumerate(data.split(b'\n'), start=1)
  return [(number, line) for number, line in lines if line.strip()]


def _line(file, number, line):
  """(name of the image, its facts) of a line."""
  try:
    content = parse_json(line)
    image = content['file_name']
    # The column of captions in most data sets of the hub.
    text = {'caption': content['text']} if 'text' in content else {}
    return posixpath.normpath(image), facts.of_json({**text, **content})
  except (ValueError, TypeError, LookupError) as error:
    raise UserError(
      f'{file}, line {number}, is no description of an image ({error}); write '
      '{"file_name": "1.jpg", "text": "a dog"}.',
      key='data.path',
      value=number,
      allowed='{"file_name": NAME, "text": CAPTION}',
    ) from error
