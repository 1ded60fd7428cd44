"""A request from prompt to pixels, by stage: ours, and diffusers' compiled.

Weights are random and drawn on the device; each stage has the memory for
itself.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import time
from typing import Any

from sana_jax.tools.bench.chip import tiles
from sana_jax.tools.bench.chip.sizes import Sizes
from sana_jax.tools.bench.chip.stages import Row
from sana_jax.tools.bench.request import Request


def ours(
  budget: Callable[[], float],
  sizes: Sizes,
  earlier: Mapping[str, Any],
  batch: int,
) -> Iterator[Row]:
  """Yields the stages of our pipeline."""
  from sana_jax.tools.bench import ours as side

  with tiles.in_use(earlier):
    yield from _stages(budget, _asked(sizes, batch), side.load)


def theirs(
  budget: Callable[[], float],
  sizes: Sizes,
  earlier: Mapping[str, Any],
  batch: int,
) -> Iterator[Row]:
  """Yields the stages of diffusers' pipeline with torch.compile."""
  del earlier
  from sana_jax.tools.bench import theirs as side

  yield from _stages(budget, _asked(sizes, batch), side.load, compiled=True)


def _asked(sizes, batch):
  model, size, steps = sizes.request
  return Request(model, size, size, steps, batch, dtype=sizes.dtype)


def _stages(budget, asked, load, **how):
  """What costs most comes first."""
  for stage in ('denoise', 'decode', 'text'):
    if budget() < 0:
      return
    loaded = load(stage, asked, drawn=True, **how)
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
          for key, value in dataclasses.asdict(asked).items()
          if key in ('model', 'height', 'steps', 'batch', 'dtype')
        },
      },
    )
    del loaded


def _seconds(run):
  began = time.perf_counter()
  run()
  return time.perf_counter() - began
