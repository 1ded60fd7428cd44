"""A request from prompt to pixels, by stage: sana_jax, and compiled diffusers.

Weights are random and drawn on the device; each stage has all of the memory.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import time
from typing import Any

from sana_jax.tools.bench.chip import tiles
from sana_jax.tools.bench.chip.sizes import Sizes
from sana_jax.tools.bench.chip.stages import Row
from sana_jax.tools.bench.request import Request


def jax_stages(
  budget: Callable[[], float],
  sizes: Sizes,
  earlier: Mapping[str, Any],
  batch: int,
) -> Iterator[Row]:
  """Yields the stages of sana_jax's pipeline."""
  from sana_jax.tools.bench import jax_side as side

  with tiles.in_use(earlier):
    yield from _stages(budget, _request(sizes, batch), side.load)


def diffusers_stages(
  budget: Callable[[], float],
  sizes: Sizes,
  earlier: Mapping[str, Any],
  batch: int,
) -> Iterator[Row]:
  """Yields the stages of diffusers' pipeline with torch.compile."""
  del earlier
  from sana_jax.tools.bench import diffusers_side as side

  yield from _stages(budget, _request(sizes, batch), side.load, compiled=True)


def _request(sizes, batch):
  model, size, steps = sizes.request
  return Request(model, size, size, steps, batch, dtype=sizes.dtype)


def _stages(budget, request, load, **how):
  """Yields stages, the most expensive first."""
  for stage in ('denoise', 'decode', 'text'):
    if budget() < 0:
      return
    loaded = load(stage, request, drawn=True, **how)
    first = _seconds(loaded.run)
    seconds = [_seconds(loaded.run)]
    while len(seconds) < 3 and budget() > 5 * seconds[0]:
      seconds.append(_seconds(loaded.run))
    yield (
      stage,
      {
        'first_seconds': first,
        'seconds': min(seconds),
        'flops': loaded.flops,
        **{
          key: value
          for key, value in dataclasses.asdict(request).items()
          if key in ('model', 'height', 'steps', 'batch', 'dtype')
        },
      },
    )
    del loaded


def _seconds(run):
  began = time.perf_counter()
  run()
  return time.perf_counter() - began
