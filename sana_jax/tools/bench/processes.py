"""Sides of a benchmark in processes of their own, asked one at a time.

While one side runs, the others wait and use nothing but memory.
"""

from collections.abc import Callable, Iterator
import contextlib
import multiprocessing as mp
import os
import re
import traceback
from typing import Any

from sana_jax.errors import is_out_of_memory, UserError


class Side:
  """The near end of a process that holds an object."""

  def __init__(self, pipe):
    self._pipe = pipe

  def ask(self, method: str, *args: Any) -> Any:
    """Calls a method of the object over there; what it raises is raised."""
    try:
      self._pipe.send((method, args))
      answer = self._pipe.recv()
    except (EOFError, BrokenPipeError):
      raise UserError(
        'A process of the benchmark has died, most likely for want of memory; '
        'take a smaller model, size or batch.'
      ) from None
    if isinstance(answer, Exception):
      raise answer
    return answer


@contextlib.contextmanager
def start(make: Callable[..., Any], *args: Any) -> Iterator[Side]:
  """`make(*args)` in a new process, which is gone afterwards."""
  # What threads free goes to where others take from: else the peak would tell
  # how many threads had made the weights.
  os.environ.setdefault('MALLOC_ARENA_MAX', '1')
  context = mp.get_context('spawn')
  near, far = context.Pipe()
  process = context.Process(target=_serve, args=(far, make, args), daemon=True)
  process.start()
  far.close()
  try:
    yield Side(near)
  finally:
    near.close()
    process.join(10)
    process.kill()


def _serve(pipe, make, args):
  """Answers until the other end is closed."""
  held = None
  with contextlib.suppress(EOFError, KeyboardInterrupt):
    while True:
      method, values = pipe.recv()
      try:
        held = held or make(*args)
        pipe.send(getattr(held, method)(*values))
      except ModuleNotFoundError as e:
        said = f'--against needs the package {e.name}; install it with pip '
        pipe.send(UserError(f"{said}install 'sana_jax[parity]'."))
      except UserError as e:
        pipe.send(e)
      except Exception:  # To be raised in the process that has a terminal.
        said = f'in {make.__name__}{args}:\n{traceback.format_exc()}'
        pipe.send(RuntimeError(said))


def reason(said: str) -> str:
  """The last line of a traceback, and first of all that memory ran out."""
  lines = [x.strip() for x in said.splitlines() if x.strip()] or ['?']
  if is_out_of_memory(said):
    needed = re.search(r'allocat\w* ([\d.]+ ?\w+)', said)
    return 'out of memory' + (f' (allocating {needed[1]})' if needed else '')
  errors = [x for x in lines if re.match(r'[\w.]*(Error|Exception)\b', x)]
  return (errors or lines)[-1][:200]
