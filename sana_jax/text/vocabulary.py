"""Words that a model was trained on, and prompts with other words.

Models with a large text encoder have no such list: any prompt is fine. One
trained on captions of a few words draws something for every prompt, but other
words mean nothing to it. Its folder lists the words (model_index.json), since a
tokenizer with byte fallback has tokens for every text.
"""

from collections.abc import Collection, Iterable, MutableSet
import re
from typing import NamedTuple

from absl import logging

from sana_jax.printable import printable
from sana_jax.text.prompts import clean

_SHOWN_UNKNOWN, _SHOWN_WORDS = 5, 40
_WARNED = 10_000  # Words of warnings; none follow.
# Blanks, ASCII punctuation but for the apostrophe, and quotes.
_BETWEEN = re.compile(r'[\s!-&(-/:-@[-`{-~“”]+')


class Vocabulary(NamedTuple):
  """Words of a model's training captions, none if any may be used.

  Attributes:
    examples: prompts that show what the model can draw.
  """

  words: tuple[str, ...] = ()
  examples: tuple[str, ...] = ()


def unknown(prompts: Iterable[str], words: Collection[str]) -> list[str]:
  """Words of the prompts that are not among `words`, each once, in order."""
  if not words:
    return []
  known = {clean(word) for word in words}
  found = (word for p in prompts for word in _BETWEEN.split(clean(p)))
  return list(dict.fromkeys(w for w in found if w and w not in known))


def note(unknown_words: Collection[str], words: Collection[str]) -> str:
  """One or two short sentences about words of a prompt, '' without any."""
  if not unknown_words:
    return ''
  one = len(unknown_words) == 1
  return (
    f'The model was not trained on the word{"" if one else "s"} '
    f'{_listed(unknown_words, _SHOWN_UNKNOWN)}. Its '
    f'{len(words)} words are: {_listed(words, _SHOWN_WORDS)}.'
  )


def warn(
  prompts: Iterable[str], words: Collection[str], warned: MutableSet[str]
) -> None:
  """Logs a warning of unknown words, each only once.

  Args:
    warned: words of earlier warnings; those of this one are added.
  """
  if len(warned) > _WARNED:
    return
  fresh = [word for word in unknown(prompts, words) if word not in warned]
  if fresh:
    warned.update(fresh[:_WARNED])
    logging.warning('%s', note(fresh, words))


def _listed(words, most):
  shown = [printable(word, 40) for word in words][:most]
  more = len(words) - len(shown)
  return ', '.join(shown) + (f' and {more} others' if more else '')
