"""Process of one stage: runs it and sends its rows."""

from collections.abc import Mapping
import os
import time
import traceback
from typing import Any

from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.tools.bench import processes
from sana_jax.tools.bench.chip import sizes
from sana_jax.tools.bench.chip.stages import Stage

_LAST = 3  # Seconds for a stage to end by itself.


def serve(
  pipe: Any, stage: Stage, seconds: float, earlier: Mapping[str, Any], log: str
) -> None:
  """Sends ('device', name), ('row', name, values) ..., ('end', status, why).

  The process leads a group, so that its children can be ended with it.
  """
  began = time.monotonic()
  os.setsid()
  _write_to(log)
  budget = lambda: seconds - _LAST - (time.monotonic() - began)
  try:
    problem_sizes = _set_up(pipe)
    for name, values in stage.run(budget, problem_sizes, earlier):
      pipe.send(('row', name, values))
  except UserError as e:
    pipe.send(('end', 'refused', str(e)))
  except Exception:  # noqa: BLE001  It affects this stage alone.
    traceback.print_exc()
    pipe.send(('end', 'failed', processes.reason(traceback.format_exc())))
  else:
    pipe.send(('end', 'measured' if budget() > 0 else 'cut', ''))


def _write_to(log):
  """Redirects stdout and stderr to a file, also for C++ libraries."""
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
  os.dup2(file, 1)
  os.dup2(file, 2)


def _set_up(pipe):
  """Sends the device's name; returns the sizes for it."""
  os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.92')
  import jax

  from sana_jax import compilation_cache
  from sana_jax.analysis import device

  if not jax.config.jax_compilation_cache_dir:
    compilation_cache.enable(
      expanded('~/.cache/sana_jax/compiled'), at_least_seconds=0
    )
  pipe.send(('device', device.name()))
  return sizes.of(jax.default_backend())
