"""Best of N over many prompts, with full batches and few candidates in memory.

A batch may hold candidates of several prompts. They are scored while the next
batch is on the device, and a prompt's are yielded once its last one is scored.
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
  """(index of a request, its kept candidates), as soon as they are final.

  Args:
    requests: one per prompt; its candidates have the numbers 0 to count - 1.
    keep: number of candidates to keep of each request.
    chooser: a scorer, which keeps the highest scores in descending order; or a
      comparator, which keeps the winners of a tournament in bracket order.
    on_bad: called with the index of a request whose text cannot be encoded,
      or with NaN in a picture, and the reason; by default the error is raised.
  """
  everyone = [
    request._replace(number=number)
    for request in requests
    for number in range(count)
  ]
  pools = {}
  bad = set()

  def skip(indices, reason):
    for i in {i // count for i in indices} - bad:
      bad.add(i)
      on_bad(i, reason)

  for indices, images in batches.generate(
    pipe, everyone, batch_size, on_bad=on_bad and skip, **settings
  ):
    came = {}
    for i, image in zip(indices, np.asarray(images)):
      request, number = divmod(i, count)
      # A copy, as a view would keep the whole batch in memory.
      came.setdefault(request, []).append(Candidate(number, image.copy()))
    for i, new in came.items():
      pool = pools.get(i) or Pool(requests[i].prompt, count, keep[i])
      pools[i] = pool._replace(candidates=(*pool.candidates, *new))
    pools |= zip(came, narrow(chooser, [pools[i] for i in came]))
    for i, new in came.items():
      if new[-1].number == count - 1 and i not in bad:
        yield i, list(pools.pop(i).candidates)
