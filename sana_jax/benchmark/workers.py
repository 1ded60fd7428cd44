"""Two sides in processes of their own, timed in turn.

Each stage has new processes, so that the memory of one tells of that stage
alone. While one side runs, the other waits and uses nothing but memory.
"""

from collections.abc import Iterator, Sequence
import contextlib
import math
import multiprocessing as mp
import os
import pathlib
import resource
import sys
import time
import traceback
from typing import Any

from sana_jax.benchmark.request import PARTS, Request
from sana_jax.errors import UserError
from sana_jax.weights import folder, zoo

OURS, PLAIN, THEIRS, COMPILED = (
  'sana_jax', 'plain', 'diffusers', 'diffusers-compile')


def measure(
  stage: str, request: Request, sides: Sequence[str], repeats: int
) -> dict[str, dict[str, Any]]:
  """By side: seconds of each call, of the first call, bytes, FLOPs.

  Sides that do not fit into memory together run one after the other.
  """
  if len(sides) > 1 and not _fit(stage, request, len(sides)):
    return {side: found for part in sides for side, found in measure(
      stage, request, [part], repeats).items()}
  with contextlib.ExitStack() as stack:
    workers = {side: stack.enter_context(_worker(side, stage, request))
               for side in sides}
    found = {side: _ask(worker, 'begin') for side, worker in workers.items()}
    for side in sides:
      found[side]['seconds'] = []
    for _ in range(repeats):
      for side, worker in workers.items():
        found[side]['seconds'].append(_ask(worker, 'run'))
    for side, worker in workers.items():
      found[side].update(_ask(worker, 'end'))
  return found


def _fit(stage, request, count):
  """Whether the weights of `count` sides take at most half of the memory."""
  part = PARTS[stage]
  shapes = folder.file_shapes(part, zoo.get(request.model).configs()[part])
  numbers = sum(math.prod(shape) for shape in shapes.values())
  size = {'float32': 4}.get(request.dtype, 2)
  total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return count * numbers * size < total / 2


@contextlib.contextmanager
def _worker(side, stage, request) -> Iterator[Any]:
  """A process's end of a pipe; the process is gone afterwards."""
  context = mp.get_context('spawn')
  near, far = context.Pipe()
  process = context.Process(
    target=work, args=(far, side, stage, request), daemon=True)
  process.start()
  far.close()
  try:
    yield near
  finally:
    near.close()
    process.join(10)
    process.kill()


def _ask(worker, command):
  try:
    worker.send(command)
    answer = worker.recv()
  except (EOFError, BrokenPipeError):
    raise UserError('A process of the benchmark has died, most likely for want '
                    'of memory; take a smaller model, size or batch.') from None
  if isinstance(answer, Exception):
    raise answer
  return answer


def work(pipe, side: str, stage: str, request: Request) -> None:
  """Answers 'begin', 'run' and 'end', until the other end is closed."""
  answers = _Side(side, stage, request)
  with contextlib.suppress(EOFError, KeyboardInterrupt):
    while True:
      command = pipe.recv()
      try:
        pipe.send(getattr(answers, command)())
      except ModuleNotFoundError as e:
        pipe.send(UserError(f'--against needs the package {e.name}; install '
                            "it with pip install 'sana_jax[parity]'."))
      except UserError as e:
        pipe.send(e)
      except Exception:  # To be raised in the process that has a terminal.
        pipe.send(RuntimeError(f'in {side}:\n{traceback.format_exc()}'))


class _Side:
  """One stage of one side, in its own process."""

  def __init__(self, side, stage, request):
    self.side, self.stage, self.request = side, stage, request

  def begin(self):
    """Loads the model and calls it once."""
    if self.side in (OURS, PLAIN):
      from sana_jax.benchmark import ours as module
      how = {'plain': self.side == PLAIN}
    else:
      from sana_jax.benchmark import theirs as module
      how = {'compiled': self.side == COMPILED}
    self.module = module
    self.loaded = module.load(self.stage, self.request, **how)
    start = time.perf_counter()
    self.loaded.run()
    seconds = time.perf_counter() - start
    _forget_peak()  # Of loading and compiling.
    return {'first_seconds': seconds, 'flops': self.loaded.flops}

  def run(self):
    """Seconds of one call."""
    start = time.perf_counter()
    self.loaded.run()
    return time.perf_counter() - start

  def end(self):
    """Peak memory; and, of ours, what the device can do."""
    on_device = self.module.peak_bytes()
    found = {'host_bytes': _peak_rss(), 'device_bytes': on_device}
    if self.side == OURS:
      del self.loaded
      found['matmul_flops'] = self.module.matmul_rate(self.request.dtype)
      found['device'] = self.module.device()
    return found


def _forget_peak():
  """Lets the process's peak memory begin anew (Linux; a no-op elsewhere)."""
  with contextlib.suppress(OSError):
    pathlib.Path('/proc/self/clear_refs').write_text('5')


def _peak_rss():
  """Bytes; since `_forget_peak` where the system can tell."""
  with contextlib.suppress(OSError):
    status = pathlib.Path('/proc/self/status').read_text()
    return 1024 * int(status.partition('VmHWM:')[2].split()[0])
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
