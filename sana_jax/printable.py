"""Counts in words, and untrusted text made safe for terminals.

Control characters can move the cursor, recolour or clear the screen, and make
some terminals send input; a text of megabytes hides everything else.
"""

import re
import unicodedata

MOST = 2000  # Characters of a message.
# Control, format (including those that reverse the text direction), surrogate,
# private use, line and paragraph separators.
_INVISIBLE = {'Cc', 'Cf', 'Cs', 'Co', 'Zl', 'Zp'}
_JOINER = '\u200d'  # Joins emoji into one; harmless.


def printable(text: object, most: int = MOST, keep: str = '') -> str:
  """The text with invisible characters escaped, truncated to `most` characters.

  Args:
    most: characters kept; the middle of a longer text is replaced by the number
      of omitted characters.
    keep: characters that are not escaped, such as a newline.
  """
  text = str(text)
  if len(text) > most:
    head, tail = text[: most - most // 4], text[len(text) - most // 4 :]
    left_out = len(text) - len(head) - len(tail)
    return (
      f'{printable(head, most, keep)} … ({left_out} characters) … '
      f'{printable(tail, most, keep)}'
    )
  if text.isascii() and text.isprintable():
    return text
  return ''.join(
    c if c in keep or _is_visible(c) else c.encode('unicode_escape').decode()
    for c in text
  )


def _is_visible(c):
  return c == _JOINER or unicodedata.category(c) not in _INVISIBLE


def counted(count: float | int, one: str, many: str = '') -> str:
  """'1 picture' or '2 pictures'.

  Args:
    one: words after a count of 1, such as 'line was'.
    many: words after every other count; by default those of `one` and an s.
  """
  number = f'{count:,}' if isinstance(count, int) else f'{count:g}'
  return f'{number} {one if count == 1 else many or f"{one}s"}'


def message(text: object, most: int = MOST) -> str:
  """A message for the terminal; lines after the first are indented.

  Untrusted text in it thus cannot imitate the start of another message.
  """
  return re.sub('\n *', '\n  ', printable(text, most, keep='\n').strip('\n'))
