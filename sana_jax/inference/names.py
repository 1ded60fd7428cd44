"""File names of pictures: those that a prompt file gives, and others.

A given name is untrusted. It has no separator and no dot, so that it stays in
its folder, is visible, and is a key of WebDataset; it is short enough for the
header of a tar file.
"""

import re
import unicodedata

from sana_jax.errors import UserError
from sana_jax.printable import printable

SUFFIXES = ('png', 'jpg', 'webp')
MOST_BYTES = 80  # In UTF-8; a header has 100, for -9999 and .webp too.
ALLOWED = (
  f'a name of 1 to {MOST_BYTES} bytes of letters, digits, spaces, - and _ that '
  'begins with a letter or digit and that is not reserved'
)
# The sheets of a run, names of lines without one, and devices on Windows.
_RESERVED = re.compile(
  r'contact_sheet(-\d+-of-\d+)?|\d{5,}-\d+(-.*)?'
  r'|con|prn|aux|nul|(com|lpt)\d',
  re.IGNORECASE,
)


def slug(prompt: str) -> str:
  """Start of the prompt, as part of a file name."""
  return re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:48] or 'prompt'


def check(key: str, value: str) -> None:
  """Raises UserError for an `id` or a `file` that cannot name a picture.

  A `file` may end in a format, which that picture then has.
  """
  stem, dot, suffix = value.rpartition('.')
  if not dot or key == 'id':
    stem = value
  elif suffix not in SUFFIXES:
    raise UserError(
      f'{key} is {_shown(value)}; it must end in .{", .".join(SUFFIXES)} or in '
      'no suffix.',
      key=key,
      value=value,
      allowed=SUFFIXES,
    )
  if not _is_stem(stem):
    raise UserError(
      f'{key} is {_shown(value)}; it must be {ALLOWED}.',
      key=key,
      value=value,
      allowed=ALLOWED,
    )


def numbered(name: str, number: int, count: int, suffix: str) -> str:
  """Name of a picture of `count` that share a checked name.

  Args:
    suffix: the format of a name without one.
  """
  stem, dot, own = name.rpartition('.')
  stem, suffix = (stem, own) if dot else (name, suffix)
  part = f'-{number}' if count > 1 else ''
  return f'{stem}{part}.{suffix}'


def folded(name: str) -> str:
  """The name by which some file systems, or shards, take it for another's.

  They ignore case, the form of an accent, or the format.
  """
  stem = unicodedata.normalize('NFC', name.rpartition('.')[0]).casefold()
  return unicodedata.normalize('NFC', stem)


def _is_stem(stem):
  first = unicodedata.category(stem[0])[0] if stem else ''
  return (
    first in ('L', 'N')
    and stem == stem.rstrip()
    and len(stem.encode('utf-8', 'replace')) <= MOST_BYTES
    and all(map(_is_plain, stem))
    and not _RESERVED.fullmatch(stem)
  )


def _is_plain(character):
  # Letters, digits, and the accents and vowel signs that belong to them.
  kinds = 'L', 'N', 'M'
  return character in ' -_' or unicodedata.category(character)[0] in kinds


def _shown(value):
  return printable(repr(value), 60)
