"""Best of N: selection of a prompt's candidates by a scorer or a comparator.

A scorer returns a number for each picture, and the highest are kept. A
comparator compares pictures in pairs, and the winners of a single-elimination
tournament are kept (SANA-1.5, arXiv:2501.18427, on inference-time scaling;
NVlabs tools/inference_scaling/nvila_sana_pick.py). If the comparator follows a
score, the single winner has the highest score; of several winners, each is
only the best of its bracket.

Candidates arrive in order, in portions of any size; those ruled out are dropped
at once. A pool holds `keep` pictures, and with a comparator up to log2(count)
more.

Unlike NVlabs' script, `count` and `keep` need not be powers of two (brackets
are as even as possible, an odd candidate has a bye), and the lower number wins
a tie.
"""

from collections.abc import Callable, Mapping, Sequence
import inspect
from typing import NamedTuple

import numpy as np

from sana_jax.errors import UserError
from sana_jax.printable import counted
from sana_jax.typing import Bool, Float, Image, Images

# (prompts, their images) -> a score each; higher is better.
Scorer = Callable[[Sequence[str], Images], Float[np.ndarray, 'b']]
# (prompts, first images, second images) -> whether the first one wins.
Comparator = Callable[[Sequence[str], Images, Images], Bool[np.ndarray, 'b']]
# (prompts, their images) -> whether each matches, and that answer's logit.
Verifier = Callable[
  [Sequence[str], Images], tuple[Bool[np.ndarray, 'b'], Float[np.ndarray, 'b']]
]


class Candidate(NamedTuple):
  """Picture `number` of its prompt; `rounds` won so far, including byes.

  Several judges have a score each, and their mean rank (ranking.py).
  """

  number: int
  image: Image
  score: float | None = None
  rounds: int = 0
  scores: Mapping[str, float] = {}
  mean_rank: float | None = None


class Pool(NamedTuple):
  """The remaining candidates of a prompt, out of `count` in total."""

  prompt: str
  count: int
  keep: int
  candidates: tuple[Candidate, ...] = ()


def best(scores: Sequence[float], keep: int) -> list[int]:
  """Indices of the highest scores, descending; ties keep their order."""
  return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:keep]


def is_comparator(chooser: Callable, key: str = '--scorer') -> bool:
  """Whether it takes pairs: (prompts, images, images), not (.., images)."""
  try:
    parameters = [
      p
      for p in inspect.signature(chooser).parameters.values()
      if p.default is p.empty
      and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
  except (TypeError, ValueError):  # Not written in Python.
    parameters = []
  if len(parameters) not in (2, 3):
    raise UserError(
      'A scorer must take (prompts, images) or, to compare '
      f'pairs, (prompts, images, images); {key} does not.',
      key=key,
      value=tuple(p.name for p in parameters),
      allowed='(prompts, images) or (prompts, images, images)',
    )
  return len(parameters) == 3


def narrow(chooser: Scorer | Comparator, pools: Sequence[Pool]) -> list[Pool]:
  """The pools without the candidates ruled out by the scorer or comparator."""
  by = _by_matches if is_comparator(chooser) else _by_scores
  return by(chooser, list(pools))


def comparator_of(verifier: Verifier) -> Comparator:
  """SANA-1.5's comparator from a verifier that returns yes or no.

  Yes beats no; of two matches, the more confident one wins; of two mismatches,
  the less confident one.
  """

  def compare(prompts, first, second):
    (yes, logit), (other_yes, other_logit) = (
      map(np.asarray, verifier(prompts, images)) for images in (first, second)
    )
    by_logit = np.where(yes, logit >= other_logit, logit <= other_logit)
    return np.where(yes == other_yes, by_logit, yes)

  return compare


def _by_scores(scorer, pools):
  fresh = [
    (pool.prompt, c.image)
    for pool in pools
    for c in pool.candidates
    if c.score is None
  ]
  scores = iter(answers(scorer, *zip(*fresh))) if fresh else iter(())
  narrowed = []
  for pool in pools:
    scored = [
      c._replace(score=float(next(scores))) if c.score is None else c
      for c in pool.candidates
    ]
    narrowed.append(
      pool._replace(
        candidates=tuple(
          scored[i] for i in best([c.score for c in scored], pool.keep)
        )
      )
    )
  return narrowed


def _by_matches(comparator, pools):
  while matches := [
    (i, at) for i, pool in enumerate(pools) for at in _matches(pool)
  ]:
    pairs = [pools[i].candidates[at : at + 2] for i, at in matches]
    first_wins = answers(
      comparator,
      [pools[i].prompt for i, _ in matches],
      *([c.image for c in side] for side in zip(*pairs)),
    )
    if first_wins.dtype != bool:
      raise UserError(
        f'The comparator returned {first_wins.dtype}; it must return True '
        'where the first picture wins and False elsewhere.',
        key='--scorer',
        value=str(first_wins.dtype),
        allowed=('bool',),
      )
    # From the right, so that positions to the left stay valid.
    for (i, at), (a, b), wins in reversed(
      list(zip(matches, pairs, first_wins))
    ):
      winner = (a if wins else b)._replace(rounds=a.rounds + 1)
      left, right = pools[i].candidates[:at], pools[i].candidates[at + 2 :]
      pools[i] = pools[i]._replace(candidates=(*left, winner, *right))
  return pools


def _matches(pool) -> list[int]:
  """Positions of candidates to compare with their right neighbours now."""
  first, found = 0, []
  for start, end in brackets(pool.count, pool.keep):
    rounds = [c.rounds for c in pool.candidates if start <= c.number < end]
    found += [first + at for at in due(rounds, end - start)]
    first += len(rounds)
  return found


def brackets(count: int, keep: int) -> list[tuple[int, int]]:
  """The first number of each bracket, and the one after its last."""
  starts = [b * count // keep for b in range(keep + 1)]
  return list(zip(starts, starts[1:]))


def due(rounds: Sequence[int], size: int) -> list[int]:
  """Positions in a bracket of `size` to compare with their right neighbours.

  Candidates with equal rounds are compared. A winner of r rounds represents 2^r
  entrants, and the remaining ones are the binary digits of the number of
  arrivals. When all have arrived, those with the fewest rounds had byes, and
  are compared.
  """
  found = []
  for i in range(len(rounds) - 1):
    if rounds[i] == rounds[i + 1] and i - 1 not in found:
      found.append(i)
  complete = sum(2**r for r in rounds) >= size
  if not found and complete and len(rounds) > 1:
    return [len(rounds) - 2]
  return found


def answers(
  chooser: Scorer | Comparator, prompts: Sequence[str], *sides: Sequence[Image]
) -> np.ndarray:
  """A finite number or a boolean per picture or pair, as NumPy."""
  found = np.asarray(chooser(list(prompts), *map(np.stack, sides)))
  if found.shape != (len(prompts),):
    raise UserError(
      f'The scorer returned an array of shape {found.shape} for '
      f'{counted(len(prompts), "prompt")}; it must return one value for each.',
      key='--scorer',
      value=found.shape,
      allowed=[(len(prompts),)],
    )
  if not np.isfinite(found.astype(np.float64)).all():
    raise UserError(
      'The scorer returned a score that is not finite; each must be a number.',
      key='--scorer',
      value=found.tolist(),
      allowed='finite numbers',
    )
  return found
