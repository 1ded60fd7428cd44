"""Sides of a benchmark in separate processes, called one at a time.

While one side runs, the others are idle and only hold memory.
"""

from collections.abc import Callable, Iterator
import contextlib
import multiprocessing as mp
import os
import re
import traceback
from typing import Any

from sana_jax import extras
from sana_jax.errors import is_out_of_memory, UserError


class Side:
  """Proxy of an object in another process."""

  def __init__(self, pipe):
    self._pipe = pipe

  def call(self, method: str, *args: Any) -> Any:
    """Calls a method of the object; raises its exceptions."""
    try:
      self._pipe.send((method, args))
      answer = self._pipe.recv()
    except (EOFError, BrokenPipeError):
      raise UserError(
        'A process of the benchmark has died, most likely for lack of memory; '
        'choose a smaller model, size or batch.'
      ) from None
    if isinstance(answer, Exception):
      raise answer
    return answer


@contextlib.contextmanager
def start(make: Callable[..., Any], *args: Any) -> Iterator[Side]:
  """`make(*args)` in a new process, which is ended afterwards."""
  # With one arena, threads reuse freed memory; otherwise the peak would depend
  # on the number of threads.
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
  """Serves calls until the other end is closed."""
  held = None
  with contextlib.suppress(EOFError, KeyboardInterrupt):
    while True:
      method, values = pipe.recv()
      try:
        held = held or make(*args)
        pipe.send(getattr(held, method)(*values))
      except ModuleNotFoundError as e:
        pipe.send(extras.missing(e.name, '--against', 'parity'))
      except UserError as e:
        pipe.send(e)
      except Exception:  # Raised in the calling process.
        message = f'in {make.__name__}{args}:\n{traceback.format_exc()}'
        pipe.send(RuntimeError(message))


def reason(trace: str) -> str:
  """Last error line of a traceback; memory exhaustion takes precedence."""
  lines = [x.strip() for x in trace.splitlines() if x.strip()] or ['?']
  if is_out_of_memory(trace):
    needed = re.search(r'allocat\w* ([\d.]+ ?\w+)', trace)
    return 'out of memory' + (f' (allocating {needed[1]})' if needed else '')
  errors = [x for x in lines if re.match(r'[\w.]*(Error|Exception)\b', x)]
  return (errors or lines)[-1][:200]
