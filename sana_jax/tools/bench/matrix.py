"""The train step in all its variants, each in a process of its own.

So one that does not fit, or brings its device down, costs itself alone, and
none finds the memory in the state that another has left.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
import pathlib
import re
import tempfile
import time
from typing import Any

import jax

from sana_jax import compiled, kernels
from sana_jax.analysis import device
from sana_jax.analysis import profile_breakdown as losses
from sana_jax.errors import is_out_of_memory, UserError
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.bench import processes, training

_TRACED = 2  # Steps of a profile.
_STEPS = 3  # Of a round.
# What `on` asks for, of the operations of the transformer.
_OPS = ('relu_linear_attention', 'glumb_conv')
_KERNELS = {'gpu': 'mosaic_gpu', 'tpu': 'mosaic_tpu'}
SIDES = ('off', 'on')


@dataclasses.dataclass(frozen=True)
class Variant:
  """A step: what is computed, and whether by kernels (of SIDES)."""

  request: training.Request
  kernels: str


@dataclasses.dataclass(frozen=True)
class Record:
  """What became of a variant.

  Attributes:
    seconds: of a step, in each round; empty where it failed.
    forward_flops: of the batch.
    failed: why, in a line.
    times: of a profile, by kind of operation, the largest loss first.
    unprofiled: why there is none, in a line.
    peak_bytes: of the fullest device.
  """

  variant: Variant
  seconds: list[float]
  forward_flops: int
  failed: str = ''
  times: list[losses.Time] = dataclasses.field(default_factory=list)
  unprofiled: str = ''
  peak_bytes: int | None = None
  compile_seconds: float = 0.

  @property
  def best(self) -> float:
    """Noise only ever adds to a time."""
    return min(self.seconds)


@dataclasses.dataclass(frozen=True)
class Facts:
  """Devices: their kind, their mesh, and FLOP/s of a product on one."""

  name: str
  mesh: dict[str, int]
  measured: float
  published: float | None

  @property
  def count(self) -> int:
    return math.prod(self.mesh.values())


def variants(
    models: Sequence[tuple[str, int]], remats: Sequence[str],
    sides: Sequence[str], **options: Any,
) -> list[Variant]:
  """All combinations; `models` are (name, batch). UserError if one is wrong."""
  if unknown := [s for s in sides if s not in SIDES]:
    raise UserError(f'--with-kernels has {unknown[0]!r}; allowed are '
                    f'{", ".join(SIDES)}.')
  return [
    Variant(training.request(
      model, batch=batch, remat=remat, **options), side)
    for model, batch in models for remat in remats for side in sides]


class Worker:
  """What a process does for its variant."""

  def __init__(self, mesh: Mapping[str, int], cache: str | None):
    """`cache` keeps compiled programs."""
    compiled.keep(cache)
    self._mesh = make_mesh(mesh)

  def facts(self, dtype: str) -> Facts:
    return Facts(device.name(), dict(self._mesh.shape),
                 device.matmul_rate(dtype),
                 device.peak_flops(jax.devices()[0].device_kind))

  def measure(
      self, variant: Variant, repeats: int, peak: float) -> Record:
    """Times rounds of steps, then traces some."""
    with jax.set_mesh(self._mesh), kernels.prefer(**_backends(variant)):
      step = training.make(variant.request, self._mesh)
      began = time.perf_counter()
      program = step.jitted.lower(*step.args).compile()
      compiled = time.perf_counter() - began
      state = step.init(jax.random.key(0))
      rest = jax.tree.map(training.filled, step.args[1:])
      state, found = _rounds(program, state, rest, repeats)
      stats = [d.memory_stats() or {} for d in jax.local_devices()]
      record = Record(
        variant, found, training.forward_flops(variant.request),
        peak_bytes=max(s.get('peak_bytes_in_use', 0) for s in stats) or None,
        compile_seconds=compiled)
      try:
        times = _profile(program, state, rest)
      except Exception as e:  # noqa: BLE001  It costs the profile alone.
        return dataclasses.replace(
          record, unprofiled=f'{type(e).__name__}: {e}'[:200])
    ideal = 3 * record.forward_flops / self._mesh.size / peak
    return dataclasses.replace(
      record, times=losses.accounted(*times, _TRACED, ideal))


def _backends(variant):
  if variant.kernels == 'off':
    return dict.fromkeys(kernels.OPS, 'xla')
  if (platform := jax.default_backend()) not in _KERNELS:
    raise UserError(f'There are no kernels for a {platform}.')
  return dict.fromkeys(_OPS, _KERNELS[platform])


def _rounds(program, state, rest, repeats):
  """The state, and seconds of a step in each round after a first one."""
  found = []
  for _ in range(repeats + 1):
    began = time.perf_counter()
    for _ in range(_STEPS):
      state, metrics = program(state, *rest)
    jax.block_until_ready(metrics)
    found.append((time.perf_counter() - began) / _STEPS)
  if int(state.skipped):
    raise UserError('The loss was not finite.')
  return state, found[1:]


def _profile(program, state, rest):
  """What losses.seconds finds in a trace of some steps."""
  text = program.as_text()
  with tempfile.TemporaryDirectory(prefix='profile') as folder:
    with jax.profiler.trace(folder):
      for _ in range(_TRACED):
        state, metrics = program(state, *rest)
      jax.block_until_ready((state, metrics))
    module = re.match(r'HloModule ([^,\s]+)', text)[1]
    return losses.seconds(
      losses.events(pathlib.Path(folder), module), losses.operations(text))


def facts(mesh: Mapping[str, int], dtype: str) -> Facts:
  """Of the devices that are here, from a process that is gone then."""
  with _worker(mesh) as side:
    return side.ask('facts', dtype)


def _worker(mesh):
  return processes.start(
    Worker, dict(mesh), jax.config.jax_compilation_cache_dir)


def records(
    asked: Sequence[Variant], mesh: Mapping[str, int], repeats: int,
    peak: float,
) -> Iterator[Record]:
  """Of each variant in turn; one that fails says so, and the next one runs."""
  for variant in asked:
    try:
      with _worker(mesh) as side:
        yield side.ask('measure', variant, repeats, peak)
    except (UserError, RuntimeError) as e:
      yield Record(variant, [], 0, failed=reason(str(e)))


def reason(said: str) -> str:
  """The last line of a traceback, and first of all that memory ran out."""
  lines = [x.strip() for x in said.splitlines() if x.strip()] or ['?']
  if is_out_of_memory(said):
    needed = re.search(r'allocat\w* ([\d.]+ ?\w+)', said)
    return 'out of memory' + (f' (allocating {needed[1]})' if needed else '')
  errors = [x for x in lines if re.match(r'[\w.]*(Error|Exception)\b', x)]
  return (errors or lines)[-1][:200]
