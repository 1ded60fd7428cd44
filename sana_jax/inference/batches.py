"""Many pictures in batches that need one compilation a size.

Requests of one size go together, in order; the last batch of a size is filled
up with copies, not compiled anew. A batch is on the device before the one
before it has left.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sana_jax.typing import Array


class Request(NamedTuple):
  """One picture: the k-th of its prompt and seed; sizes in pixels."""

  prompt: str
  seed: int
  number: int = 0
  negative_prompt: str = ''
  height: int | None = None
  width: int | None = None


def request_of(about: Mapping[str, Any]) -> Request:
  """What the pipeline is asked for, of all that is known of a picture."""
  return Request(**{k: about[k] for k in Request._fields if k in about})


def plan(requests: Sequence[Request], size: int) -> list[list[int]]:
  """Indices of the requests of each batch, at most `size`."""
  by_size = {}
  for i, request in enumerate(requests):
    by_size.setdefault((request.height, request.width), []).append(i)
  return [group[start:start + size] for group in by_size.values()
          for start in range(0, len(group), size)]


def generate(
  pipe, requests: Sequence[Request], batch_size: int, **settings: Any
) -> Iterator[tuple[list[int], Array]]:
  """(indices of requests, their images on the devices), a batch at a time."""
  size = min(batch_size, len(requests))
  for indices in plan(requests, size):
    yield indices, _draw(
      pipe, [requests[i] for i in indices], size, settings)[:len(indices)]


def _draw(pipe, batch, size, settings):
  batch = batch + batch[-1:] * (size - len(batch))
  return pipe.draw(
    [r.prompt for r in batch], seed=[r.seed for r in batch],
    numbers=[r.number for r in batch], height=batch[0].height,
    width=batch[0].width, negative_prompt=[r.negative_prompt for r in batch],
    **settings)
