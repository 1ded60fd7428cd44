"""Compiles candidates concurrently, each in its own process."""

from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
from typing import Any

from sana_jax import files, interpreter
from sana_jax.analysis import chips
from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.tools.plan import cache, report
from sana_jax.tools.plan.candidates import Candidate
from sana_jax.tools.plan.report import Plan

_WARNING = re.compile(
  r'[Rr]emateriali[sz]|Involuntary|Can.t reduce memory use below'
)
_STAMP = re.compile(r'^[A-Z]\d{4} \S+ +\d+ \S+\] ')
_SHOWN = 300  # Characters of a warning.


@dataclasses.dataclass
class Runner:
  """Compiles for one topology, with a cache.

  Attributes:
    on_plan: called with each Plan and whether it came from the cache.
    host_bytes: peak memory of a compilation.
  """

  topology: str
  mode: str = 'train'
  jobs: int = 1
  on_plan: Callable[[Plan, bool], None] = lambda plan, cached: None
  host_bytes: int = 0
  cpu_seconds: float = 0.0
  compiled: int = 0

  def __post_init__(self):
    self._lock = threading.Lock()
    self._folder = pathlib.Path(expanded(cache.FOLDER))

  def map(self, f: Callable, items: Sequence[Any]) -> list[Any]:
    """[f(item), ...], with `jobs` threads."""
    cache.sources()  # Python 3.11 cannot parse in several threads at once.
    with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
      return list(pool.map(f, items))

  def unchanged(self, candidate: Candidate, program: str) -> bool:
    """Whether a candidate's program has this digest; it is then not compiled.

    Otherwise its plan is in the cache.
    """
    facts = self._facts(candidate)
    name = cache.key(facts)
    if found := cache.read(self._folder, name):
      return found.get('program') == program
    found = self._compile(facts | {'known': program})
    if found is not None:
      cache.write(self._folder, name, found)
    return found is None

  def one(self, candidate: Candidate) -> Plan:
    """Plan of a candidate, from the cache or compiled."""
    plan, cached = self._one(candidate)
    with self._lock:
      self.on_plan(plan, cached)
    return plan

  def _one(self, candidate):
    if candidate.problem:
      return self._without(candidate, candidate.problem), True
    facts = self._facts(candidate)
    name = cache.key(facts)
    found = cache.read(self._folder, name)
    cached = found is not None
    if not cached:
      try:
        found = self._compile(facts)
      except UserError as e:  # Not cached: a retry may have more memory.
        return self._without(candidate, str(e)), False
      cache.write(self._folder, name, found)
    if 'error' in found:
      return self._without(candidate, found['error']), cached
    plan = report.from_dict(found)
    return dataclasses.replace(plan, layout=candidate.name), cached

  def _facts(self, candidate):
    return {
      'topology': self.topology,
      'layout': candidate.name,
      'mode': self.mode,
      'config': candidate.config.to_dict(),
    }

  def _without(self, candidate, problem):
    """Plan of a candidate that cannot be compiled."""
    config = candidate.config
    return Plan(
      candidate.name,
      self.topology,
      self.mode,
      {axis: n for axis, n in config.mesh.items() if axis != 'slices'},
      config.batch_size,
      config.num_steps,
      problem,
      chips.parse(self.topology).chip.of_device().usable,
    )

  def _compile(self, facts):
    with tempfile.TemporaryDirectory() as folder:
      request, out = (
        pathlib.Path(folder) / name for name in ('request.json', 'plan.json')
      )
      request.write_text(json.dumps(facts))
      worker = interpreter.module('sana_jax.tools.plan.worker')
      done = subprocess.run(
        [*worker, str(request), str(out)],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
      )
      if not out.exists():
        raise UserError(_failure(done, facts))
      found = files.read_json(out)
    with self._lock:
      self.host_bytes = max(self.host_bytes, found['host_bytes'])
      self.cpu_seconds += found['cpu_seconds']
      self.compiled += 1
    plan = found['plan']
    if plan and 'error' not in plan:
      plan['warnings'] = warnings_in(done.stderr)
    return plan


def warnings_in(stderr: str) -> list[str]:
  """Lines of the compiler about rematerialised arrays."""
  found = filter(_WARNING.search, stderr.splitlines())
  shown = (_STAMP.sub('', line.strip())[:_SHOWN] for line in found)
  return list(dict.fromkeys(shown))


def _environment():
  """Environment in which compilers see no devices and print warnings."""
  path = os.pathsep.join(p for p in sys.path if p)
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': path,
    'TF_CPP_MIN_LOG_LEVEL': '1',
    'TPU_STDERR_LOG_LEVEL': '1',
    'TPU_MIN_LOG_LEVEL': '1',
  }


def _failure(done, facts):
  what = f'Compiling {facts["layout"]} for {facts["topology"]}'
  if done.returncode < 0:
    return (
      f'{what} was killed (signal {-done.returncode}), most likely for lack '
      'of memory; give --jobs 1, or more memory.'
    )
  lines = [x for x in done.stderr.strip().splitlines() if x] or ['']
  return f'{what} failed: {lines[-1][:400]}'
