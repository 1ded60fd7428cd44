"""Best of N over many prompts: batches are full, few candidates are held.

A batch may hold candidates of several prompts. They are scored while the next
batch is on the device, and a prompt's are let go when its last one is judged.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sana_jax.inference import batches
from sana_jax.inference.batches import Request
from sana_jax.inference.verify import Candidate, narrow, Pool


def generate(
  pipe,
  requests: Sequence[Request],
  count: int,
  keep: Sequence[int],
  chooser: Callable,
  batch_size: int,
  *,
  on_bad: Callable[[int, str], None] | None = None,
  **settings: Any,
) -> Iterator[tuple[int, list[Candidate]]]:
  """(index of a request, its kept candidates), as soon as it is decided.

  Args:
    requests: one a prompt; its candidates have the numbers 0 to count - 1.
    keep: how many of each request's candidates.
    chooser: a scorer, whose highest are kept, highest first; or a judge, whose
      tournament's winners are kept, in the order of their brackets.
    on_bad: called with the index of a request whose text cannot be encoded,
      and the reason; by default that is raised.
  """
  everyone = [
    request._replace(number=number)
    for request in requests
    for number in range(count)
  ]
  pools = {}
  skip = on_bad and (
    lambda indices, reason: [
      on_bad(i, reason) for i in {i // count for i in indices}
    ]
  )
  for indices, images in _one_behind(
    batches.generate(pipe, everyone, batch_size, on_bad=skip, **settings)
  ):
    came = {}
    for i, image in zip(indices, np.asarray(images)):
      request, number = divmod(i, count)
      # A copy, for a view would hold the whole batch.
      came.setdefault(request, []).append(Candidate(number, image.copy()))
    for i, new in came.items():
      pool = pools.get(i) or Pool(requests[i].prompt, count, keep[i])
      pools[i] = pool._replace(candidates=(*pool.candidates, *new))
    pools |= zip(came, narrow(chooser, [pools[i] for i in came]))
    for i, new in came.items():
      if new[-1].number == count - 1:
        yield i, list(pools.pop(i).candidates)


def _one_behind(items: Iterator) -> Iterator:
  """The same items, each when the next one has been asked for."""
  waiting = []
  for item in items:
    waiting.append(item)
    if len(waiting) == 2:
      yield waiting.pop(0)
  yield from waiting
