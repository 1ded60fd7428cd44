"""Sides in separate processes, timed alternately.

Each stage has new processes, so that its peak memory is its own.
"""

from collections.abc import Sequence
import contextlib
import math
import os
import time
from typing import Any

from sana_jax import kernels
from sana_jax.tools.bench import processes, resident
from sana_jax.tools.bench.request import PARTS, Request
from sana_jax.weights import folder

OURS, PLAIN, XLA, COMPILED = 'sana_jax', 'plain', 'xla', 'diffusers-compile'
TEACHER = 'teacher'


def measure(
  stage: str, request: Request, sides: Sequence[str], repeats: int
) -> dict[str, dict[str, Any]]:
  """Seconds of calls and of the first call, bytes and FLOPs, by side.

  Sides that do not fit into memory together run one after the other.
  """
  if len(sides) > 1 and not _fit(stage, request, len(sides)):
    alone = (measure(stage, request, [side], repeats) for side in sides)
    return {side: found for one in alone for side, found in one.items()}
  with contextlib.ExitStack() as stack:
    workers = {
      side: stack.enter_context(processes.start(_Side, side, stage, request))
      for side in sides
    }
    found = {side: worker.call('begin') for side, worker in workers.items()}
    for _ in range(repeats):
      for side, worker in workers.items():
        found[side]['seconds'].append(worker.call('run'))
    for side, worker in workers.items():
      found[side].update(worker.call('end'))
  return found


def _fit(stage, request, count):
  """Whether the weights of `count` sides fill at most half of the memory."""
  part = PARTS[stage]
  shapes = folder.file_shapes(part, request.config(part))
  numbers = sum(math.prod(shape) for shape in shapes.values())
  size = {'float32': 4}.get(request.dtype, 2)
  total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return count * numbers * size < total / 2


class _Side:
  """One stage of one side, in its own process."""

  def __init__(self, side, stage, request):
    self.side, self.stage = side, stage
    self.request = request.of_teacher() if side == TEACHER else request

  def begin(self):
    """Loads the model and calls it once."""
    if self.side in (OURS, PLAIN, XLA, TEACHER):
      from sana_jax.tools.bench import jax_side as module

      how = {'plain': self.side == PLAIN}
    else:
      from sana_jax.tools.bench import diffusers_side as module

      how = {'compiled': self.side == COMPILED}
    self.module = module
    with kernels.prefer(**self._kernels()):  # Compiling fixes them.
      self.loaded = module.load(self.stage, self.request, **how)
      start = time.perf_counter()
      self.loaded.run()
      seconds = time.perf_counter() - start
    resident.forget_peak()  # Excludes loading and compiling.
    flops = self.loaded.flops
    return {'first_seconds': seconds, 'flops': flops, 'seconds': []}

  def _kernels(self):
    if self.side == XLA:
      return dict.fromkeys(kernels.OPS, 'xla')
    return self.request.kernels

  def run(self):
    """Seconds of one call."""
    start = time.perf_counter()
    self.loaded.run()
    return time.perf_counter() - start

  def end(self):
    """Peak memory; for sana_jax's side, also the device's name and rate."""
    on_device = self.module.peak_bytes()
    found = {'host_bytes': resident.peak_bytes(), 'device_bytes': on_device}
    if self.side == OURS:
      from sana_jax.analysis import device

      del self.loaded
      found['matmul_flops'] = device.matmul_rate(self.request.dtype)
      found['device'] = device.name()
    return found
