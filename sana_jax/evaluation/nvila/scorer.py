"""NVILA as a scorer or a comparator of --scorer.

  --scorer nvila:DIR                 one score per picture
  --scorer nvila:DIR?tournament=1    the official tournament

The official rule (NVlabs' tools/inference_scaling/nvila_sana_pick.py) compares
two pictures by the first token of their answers and its logits: of two yes, the
higher logit of yes wins; of two equal answers otherwise, the lower logit of no;
of others, yes. The second picture wins a tie, and if neither is yes. Whether a
picture is judged alone or against another, its answer is the same, so that the
rule is an order: `score` is a number with that order, whose highest is the
tournament's winner. Of several winners, each is only the best of its bracket.

An answer that is neither yes nor no counts as no, as in the official rule; a
judge that gives no other is refused.
"""

from collections.abc import Callable, Sequence
import hashlib
from typing import Any, NamedTuple
import urllib.parse

import jax
import numpy as np

from sana_jax.errors import UserError
from sana_jax.evaluation.nvila.judge import Answer, load
from sana_jax.paths import expanded
from sana_jax.printable import counted, printable
from sana_jax.typing import Bool, Float, Images

_PREFIX = 'nvila:'
_APART = 1e6  # Between the scores of yes and of no; logits are far smaller.
_DTYPES = ('float32', 'bfloat16')


class Options(NamedTuple):
  """Options of a name.

  Attributes:
    batch: pictures judged at once.
  """

  folder: str
  tournament: bool = False
  batch: int = 8
  dtype: str = 'bfloat16'


def parse(name: str, key: str = '--scorer') -> Options:
  """Options of a name; raises UserError if they are invalid."""
  folder, _, query = name.removeprefix(_PREFIX).partition('?')
  given = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
  allowed = {
    'tournament': ('0', '1'),
    'batch': tuple(map(str, range(1, 1025))),
    'dtype': _DTYPES,
  }
  shown = printable(name, 200)
  if not folder:
    raise UserError(
      f'{key}={shown} names no folder; write {_PREFIX}DIR.',
      key=key,
      value=name,
      allowed=f'{_PREFIX}DIR',
    )
  for option, value in given.items():
    if value not in allowed.get(option, ()):
      raise UserError(
        f'{key}={shown}: the option {printable(option, 40)} is '
        f'{printable(repr(value), 40)}; allowed are tournament=1, batch=1 to '
        f'1,024 and dtype={" or ".join(_DTYPES)}.',
        key=key,
        value=name,
        allowed=tuple(allowed),
      )
  return Options(
    expanded(folder),
    given.get('tournament') == '1',
    int(given.get('batch', 8)),
    given.get('dtype', 'bfloat16'),
  )


def make(name: str, key: str = '--scorer') -> Callable:
  """The scorer or comparator of a name, with its cost as attribute `cost`."""
  options = parse(name, key)
  devices = jax.local_devices()
  batch = -(-options.batch // len(devices)) * len(devices)
  judge = load(options.folder, np.dtype(options.dtype), devices)
  return of_judge(judge, options._replace(batch=batch), name)


def of_judge(judge: Any, options: Options, name: str = 'nvila') -> Callable:
  """The scorer or comparator of a `Judge`, or of what answers as one."""
  known: dict[bytes, Answer] = {}

  def answers(prompts, images):
    keys = [_key(*x) for x in zip(prompts, images)]
    fresh = list({k: i for i, k in enumerate(keys) if k not in known}.values())
    found = judge.answers(
      [prompts[i] for i in fresh], images[fresh], options.batch
    )
    known.update({keys[i]: answer for i, answer in zip(fresh, found)})
    _check(name, judge, known.values())
    return [known[k] for k in keys]

  def score(prompts: Sequence[str], images: Images) -> Float[np.ndarray, 'b']:
    return np.array([score_of(x, judge.ids) for x in answers(prompts, images)])

  def compare(
    prompts: Sequence[str], first: Images, second: Images
  ) -> Bool[np.ndarray, 'b']:
    count = len(prompts)
    found = answers([*prompts, *prompts], np.concatenate([first, second]))
    pairs = zip(found[:count], found[count:])
    return np.array([first_wins(a, b, judge.ids) for a, b in pairs])

  chosen = compare if options.tournament else score
  chosen.cost = lambda: _cost(name, judge, known.values())
  return chosen


def score_of(answer: Answer, ids: tuple[int, int]) -> float:
  """Number whose order is the official rule: any yes is above any no."""
  return answer.yes if answer.token == ids[0] else -answer.no - _APART


def first_wins(a: Answer, b: Answer, ids: tuple[int, int]) -> bool:
  """Whether the first of two pictures wins by the official rule."""
  if a.token != b.token:
    return a.token == ids[0]
  return a.yes > b.yes if a.token == ids[0] else a.no < b.no


def _key(prompt, image):
  picture = hashlib.sha256(np.ascontiguousarray(image)).digest()
  return hashlib.sha256(picture + prompt.encode()).digest()


def _check(name, judge, answers):
  """Raises UserError for a judge that never answers yes or no."""
  if answers and not any(x.token in judge.ids for x in answers):
    token = next(iter(answers)).token
    word = judge.chat.tokenizer.decode([token])
    raise UserError(
      f'The judge {printable(name, 200)} answers {printable(repr(word), 40)}; '
      'it must be yes or no: give a folder of a verifier, such as '
      'NVILA-Lite-2B-Verifier.',
      key='--scorer',
      value=word,
      allowed=('yes', 'no'),
    )


def _cost(name, judge, answers):
  """Sentence with the answers so far."""
  yes = sum(x.token == judge.ids[0] for x in answers)
  no = sum(x.token == judge.ids[1] for x in answers)
  other = len(answers) - yes - no
  odd = f' and {other:,} else, counted as no' if other else ''
  return (
    f'{name} judged {counted(len(answers), "picture")}: {yes:,} yes, {no:,} '
    f'no{odd}.'
  )
