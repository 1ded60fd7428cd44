"""Best of N by scorers: scores of all candidates, and few pictures in memory.

The scores decide, by mean rank if there are several judges (ranking.py). Of
each prompt only the pictures that lead so far are held. A winner that is not
held, as after a restart or if it led again later, is drawn again in its batch:
pictures depend on seed and number alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from sana_jax.inference import batches, ranking
from sana_jax.inference.batches import Request
from sana_jax.inference.score_log import ScoreLog
from sana_jax.inference.verify import answers, Candidate, Scorer
from sana_jax.typing import Image


@dataclasses.dataclass(frozen=True)
class _Pool:
  """Candidates of a prompt: scores by number, and pictures that lead so far."""

  key: str
  keep: int
  scores: dict[int, dict[str, float]]
  held: dict[int, Image] = dataclasses.field(default_factory=dict)

  @property
  def means(self) -> dict[int, float]:
    """Mean rank by number."""
    numbers = sorted(self.scores)
    table = np.array([[*self.scores[n].values()] for n in numbers])
    return dict(zip(numbers, ranking.mean_ranks(table).tolist()))

  def best(self) -> list[int]:
    """Numbers of the leading candidates, the best first."""
    means = self.means
    return sorted(means, key=lambda n: (means[n], n))[: self.keep]

  def drop(self, numbers: Sequence[int]) -> None:
    """Keeps only these pictures."""
    for number in set(self.held) - set(numbers):
      del self.held[number]

  def winners(self) -> list[Candidate]:
    """The kept candidates; no picture is held any more."""
    means, best = self.means, [n for n in self.best() if n in self.held]
    return [
      Candidate(
        n,
        self.held.pop(n),
        next(iter(self.scores[n].values())),
        scores=self.scores[n],
        mean_rank=means[n],
      )
      for n in best
    ]


def generate(
  pipe,
  requests: Sequence[Request],
  count: int,
  keep: Sequence[int],
  *,
  scorers: Mapping[str, Scorer],
  batch_size: int,
  log: ScoreLog,
  keys: Sequence[str],
  on_bad: Callable[[int, str], None] | None = None,
  **settings: Any,
) -> Iterator[tuple[int, list[Candidate]]]:
  """(index of a request, its kept candidates, the best first), when final.

  Args:
    requests, count, keep, on_bad: as in `candidates.generate`.
    scorers: judges by name.
    log: scores so far; candidates in it are not drawn again.
    keys: of each request, in the log.
  """
  everyone = [
    request._replace(number=number)
    for request in requests
    for number in range(count)
  ]
  pools = [
    _Pool(key, most, log.of(key, tuple(scorers), count))
    for key, most in zip(keys, keep, strict=True)
  ]
  bad = set()

  def skip(indices, reason):
    for i in {i // count for i in indices} - bad:
      bad.add(i)
      on_bad(i, reason)

  def draw(wanted):
    """(index, picture) of those wanted, in batches that others share."""
    for indices, images in batches.generate(
      pipe,
      everyone,
      batch_size,
      wanted=wanted,
      on_bad=on_bad and skip,
      **settings,
    ):
      # Copies, as views would keep the whole batch in memory.
      pairs = zip(indices, np.asarray(images))
      yield [(at, x.copy()) for at, x in pairs if at in wanted]

  def finished(i):
    pool = pools[i]
    absent = {i * count + n for n in pool.best() if n not in pool.held}
    for drawn in draw(absent) if absent else ():
      pool.held.update((at % count, image) for at, image in drawn)
    return i, pool.winners()

  scored = lambda at: at % count in pools[at // count].scores
  missing = {at for at in range(len(everyone)) if not scored(at)}
  yield from (
    finished(i) for i, p in enumerate(pools) if len(p.scores) == count
  )
  for drawn in draw(missing) if missing else ():
    _score(drawn, everyone, pools, count, scorers, log)
    for i in dict.fromkeys(at // count for at, _ in drawn):
      if len(pools[i].scores) == count and i not in bad:
        yield finished(i)
      pools[i].drop(pools[i].best())


def _score(drawn, everyone, pools, count, scorers, log):
  """Adds new pictures and their scores to their pools, and to the log."""
  if not drawn:
    return
  prompts = [everyone[at].prompt for at, _ in drawn]
  images = [image for _, image in drawn]
  table = [answers(scorer, prompts, images) for scorer in scorers.values()]
  rows = []
  for (at, image), own in zip(drawn, np.transpose(table).tolist()):
    pool, number = pools[at // count], at % count
    pool.scores[number] = dict(zip(scorers, map(float, own)))
    pool.held[number] = image
    rows.append((pool.key, number, pool.scores[number]))
  log.add(rows)
