"""A vision-language model behind a chat API of OpenAI's style as a judge.

  --scorer 'https://HOST/v1?model=NAME'           a score from 0 to 100
  --scorer 'https://HOST/v1?model=NAME&pairs=1'   the better one of two

A pair is judged in both orders, since such models prefer the first picture; the
first one wins if both answers agree. Answers are cached on the disk by prompt
and picture, so that a run that is stopped requests only what is missing.
"""

from collections.abc import Callable, Sequence
import io
import re
from typing import NamedTuple
import urllib.parse

import numpy as np
from PIL import Image

from sana_jax.errors import UserError
from sana_jax.evaluation import chat
from sana_jax.evaluation.chat import Endpoint, KEY
from sana_jax.printable import counted, printable
from sana_jax.typing import Bool, Float, Images

_SCORE = (
  'How well does the picture show this prompt, with every object, count, '
  'colour and position? Answer with one number from 0 (not at all) to 100 '
  '(entirely), and nothing else. The prompt is: '
)
_PAIR = (
  'Which picture shows this prompt better, with every object, count, colour '
  "and position? Answer 'first' or 'second', and nothing else. The prompt is: "
)
# Of a URL: type, least and largest value.
_OPTIONS = {
  'timeout': (float, 0.001, 3600),
  'retries': (int, 0, 100),
  'concurrency': (int, 1, 256),
  'pairs': (int, 0, 1),
}


class Judge(NamedTuple):
  """An endpoint; `pairs`: whether pictures are compared in pairs."""

  endpoint: Endpoint
  pairs: bool = False


def is_url(name: str) -> bool:
  """Whether a scorer's name is that of a judge."""
  return name.startswith(('http://', 'https://'))


def parse(name: str, key: str = '--scorer') -> Judge:
  """The judge of a URL; raises UserError if it is not a judge's."""
  try:
    return _parsed(name)
  except ValueError as error:  # Of urllib too, for a wrong port or bracket.
    problem = str(error)
  shown = printable(re.sub('//.*@', '//...@', name), 200)
  raise UserError(
    f'{key}={shown}: {problem}.',
    key=key,
    value=name,
    allowed='https://HOST/v1?model=NAME',
  )


def _parsed(name):
  address, _, query = name.partition('?')
  parts = urllib.parse.urlsplit(address)
  given = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
  if not is_url(name) or not parts.hostname or parts.port == 0:
    raise ValueError('this is no URL of a judge')
  if '@' in parts.netloc:  # It would be in results.jsonl.
    raise ValueError(f'this holds a password; set the variable {KEY} instead')
  if unknown := sorted(set(given) - {*_OPTIONS, 'model'}):
    allowed = ', '.join(('model', *_OPTIONS))
    raise ValueError(f'there is no option {unknown[0]}; allowed are {allowed}')
  if not given.get('model'):
    raise ValueError('the model is missing; add ?model=NAME')
  found = {k: _number(k, given[k]) for k in _OPTIONS if k in given}
  pairs = bool(found.pop('pairs', 0))
  return Judge(Endpoint(address.rstrip('/'), given['model'], **found), pairs)


def _number(name, text):
  kind, least, most = _OPTIONS[name]
  try:
    value = kind(text)
  except ValueError:
    value = None
  if value is None or not least <= value <= most:
    raise ValueError(
      f'{name} is {text}; it must be a number from {least:g} to {most:g}'
    )
  return value


def make(name: str, key: str = '--scorer') -> Callable:
  """The scorer or comparator of a URL, with its cost as attribute `cost`."""
  judge = parse(name, key)
  spent = []

  def ask(questions, pictures, read):
    found = chat.answers(judge.endpoint, questions, pictures, read)
    spent.extend(found)
    return [answer.value for answer in found]

  def score(prompts: Sequence[str], images: Images) -> Float[np.ndarray, 'b']:
    pictures = [[_png(image)] for image in images]
    questions = [_SCORE + prompt for prompt in prompts]
    return np.array(ask(questions, pictures, score_of))

  def compare(
    prompts: Sequence[str], first: Images, second: Images
  ) -> Bool[np.ndarray, 'b']:
    pairs = [[_png(a), _png(b)] for a, b in zip(first, second)]
    questions = [_PAIR + prompt for prompt in prompts]
    both = pairs + [pair[::-1] for pair in pairs]
    wins = ask(questions * 2, both, is_first)
    count = len(pairs)
    return np.array([a and not b for a, b in zip(wins[:count], wins[count:])])

  chosen = compare if judge.pairs else score
  chosen.cost = lambda: _cost(judge, spent)
  return chosen


def _cost(judge, spent):
  """Sentence with the answers and tokens so far."""
  fresh = [answer for answer in spent if not answer.cached]
  return (
    f'{judge.endpoint.model} gave {counted(len(spent), "answer")}, '
    f'{len(spent) - len(fresh):,} of them from the cache, with '
    f'{counted(sum(answer.tokens for answer in fresh), "token")}.'
  )


def _png(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def score_of(text: str) -> float:
  """The number in an answer; ValueError if there is none from 0 to 100."""
  found = re.search(r'-?\d+(\.\d+)?', text)
  if found is None or not 0 <= float(found[0]) <= 100:
    raise ValueError('a number from 0 to 100')
  return float(found[0])


def is_first(text: str) -> bool:
  """Whether an answer has the word 'first'; ValueError for neither or both."""
  found = set(re.findall('first|second', text.lower()))
  if len(found) != 1:
    raise ValueError("'first' or 'second'")
  return found == {'first'}
