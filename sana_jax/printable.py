"""Text of others, such as prompts and names in files, as a terminal may see it.

A control character can move the cursor, recolour or clear the screen, and some
terminals answer to it; a text of megabytes hides everything else.
"""

import re
import unicodedata

MOST = 2000  # Characters of a message.
# Control, format (among them what reverses the direction of a text), surrogate,
# private use, line and paragraph separators.
_UNSEEN = {'Cc', 'Cf', 'Cs', 'Co', 'Zl', 'Zp'}
_JOINER = '\u200d'  # Joins emoji into one; harmless.


def printable(text: object, most: int = MOST, keep: str = '') -> str:
  """The text with what cannot be seen escaped, at most `most` characters.

  Args:
    most: characters kept; the middle of a longer text is left out, and the
      number of characters left out stands in its place.
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
    c if c in keep or _is_seen(c) else c.encode('unicode_escape').decode()
    for c in text
  )


def _is_seen(character):
  return character == _JOINER or unicodedata.category(character) not in _UNSEEN


def message(text: object, most: int = MOST) -> str:
  """A message for the terminal; its lines after the first are indented.

  So no text of others in it begins a line, as if it were another message.
  """
  return re.sub('\n *', '\n  ', printable(text, most, keep='\n').strip('\n'))
