"""Train steps on random data: timed, predicted, profiled, or only compiled.

The step is that of `sana-jax train`: flow matching on cached latents and text,
with optimizer, EMA and checks. Each variant has its own process, so that an
out-of-memory error or a crashed device affects it alone.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
import statistics
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax import compilation_cache, kernels
from sana_jax.analysis import (
  ceilings,
  collectives,
  device,
  hlo,
  profile_breakdown,
  topologies,
  work,
)
from sana_jax.errors import UserError
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.bench import processes, resident, timing
from sana_jax.tools.plan import compiling, report, steps


@dataclasses.dataclass(frozen=True)
class Variant:
  """Measurements of one process.

  Attributes:
    name: name of the config, as requested.
    config: values of the config.
    sides: name -> backends of ops, or one of timing.SIDES; they alternate from
      one state.
  """

  name: str
  config: dict[str, Any]
  sides: Mapping[str, Mapping[str, str] | str]


@dataclasses.dataclass(frozen=True)
class Record:
  """One side of a variant, measured or compiled; bytes are per device.

  Attributes:
    config, by: names of the config and the side.
    seconds: seconds of a step, by round; empty if it did not run.
    failed: reason for that.
    model_flops: FLOPs of the batch's losses and gradients.
    state_bytes: weights, EMA, moments and the batch.
    used_bytes: measured peak, or None if unknown.
    needed_bytes: predicted peak.
    predicted: seconds: `total`, and those of operations bound by FLOPs
      (`compute`) and by memory (`memory`).
    flops, moved: FLOPs and memory traffic of the program.
    ceilings: measured rates: `flops` of a matmul, `memory_rate` of a copy, and
      on a CPU `page_rate`, bytes per second of new memory.
    times: profile by kind of operation, largest loss first.
    unprofiled: reason for a missing profile.
  """

  config: str
  by: str
  images: int
  dtype: str = ''
  remat: str = ''
  device: str = ''
  mesh: dict[str, int] = dataclasses.field(default_factory=dict)
  seconds: list[float] = dataclasses.field(default_factory=list)
  failed: str = ''
  model_flops: int = 0
  compile_seconds: float = 0.0
  state_bytes: int = 0
  temporary_bytes: int = 0
  used_bytes: int | None = None
  needed_bytes: int = 0
  kernels: dict[str, int] = dataclasses.field(default_factory=dict)
  collectives: dict[str, int] = dataclasses.field(default_factory=dict)
  predicted: dict[str, float] = dataclasses.field(default_factory=dict)
  flops: float = 0.0
  moved: float = 0.0
  ceilings: dict[str, float] = dataclasses.field(default_factory=dict)
  times: list[profile_breakdown.Time] = dataclasses.field(default_factory=list)
  unprofiled: str = ''

  @property
  def best(self) -> float:
    """Minimum, since noise only adds to a time."""
    return min(self.seconds, default=math.nan)

  @property
  def median(self) -> float:
    return statistics.median(self.seconds)

  @property
  def published(self) -> float | None:
    """Data sheet FLOP/s of a device."""
    return device.peak_flops(self.device)

  def mfu(self, peak: float) -> float:
    """Model FLOP/s per device, by `peak`."""
    devices = math.prod(self.mesh.values())
    return self.model_flops / self.best / devices / peak


class Read(NamedTuple):
  """Plan data of a program; `needed` are bytes, as in a Plan."""

  work: list[work.Work]
  collectives: list[collectives.Collective]
  needed: int

  def seconds(self, rates: Mapping[str, Any]) -> report.Seconds:
    """Predicted seconds of a step at measured rates."""
    here = ceilings.device_of(device.name(), rates)
    return report.seconds(self.work, self.collectives, here)


def read(
  step: jax.stages.Compiled,
  program: steps.Program,
  config: ConfigDict,
  mesh: Mesh,
) -> Read:
  """Plan data of a compiled program."""
  module = hlo.parse(step.as_text())
  here = [collectives.Place((), 0)] * mesh.size
  return Read(
    work.of_program(module, steps.run_flops(config) / mesh.size),
    collectives.find(module, dict(mesh.shape), here),
    sum(compiling.memory(step, program).values()),
  )


class Worker:
  """Worker process of a variant."""

  def __init__(self, cache: str | None):
    """`cache`: folder of compiled programs."""
    compilation_cache.enable(cache)

  def measure(
    self, variant: Variant, repeats: int, profiled: bool
  ) -> list[Record]:
    """Times rounds of steps, analyses the programs, and profiles some steps."""
    config = ConfigDict(variant.config)
    mesh = make_mesh(config.mesh.to_dict())
    built, took, profiles = {}, {}, {}
    with jax.set_mesh(mesh):
      for side, names in variant.sides.items():
        names = timing.backends(names) if isinstance(names, str) else names
        with kernels.prefer(**names):
          program = steps.make(config, mesh)
          built[side], took[side] = timing.compiled(program)
      found = timing.measure(built, program, repeats)
      state = found.state
      for side, step in built.items() if profiled else ():
        state, profiles[side] = _profile(step, state, found.rest)
    rates = dict(ceilings.measure(config.dtype))
    if jax.default_backend() == 'cpu':
      rates['page_rate'] = resident.page_rate()
    return [
      _measured(
        _compiled(variant.name, side, config, mesh, step),
        read(step, program, config, mesh),
        rates,
        profiles.get(side, ''),
        compile_seconds=took[side],
        seconds=found.seconds[side],
        used_bytes=found.bytes,
      )
      for side, step in built.items()
    ]


def _profile(step, state, rest):
  """(state, profile or the reason for its failure)."""
  try:
    return timing.profile(step, state, rest)
  except Exception as e:  # noqa: BLE001
    return state, f'{type(e).__name__}: {e}'[:200]


def _record(name, side, config, **facts):
  own = config.batch_size, config.dtype, config.model.remat
  return Record(name, side, *own, **facts)


def _compiled(name, side, config, mesh, program):
  """Record of a compiled program."""
  memory, module = program.memory_analysis(), hlo.parse(program.as_text())
  return _record(
    name,
    side,
    config,
    mesh=dict(mesh.shape),
    model_flops=steps.model_flops(config),
    state_bytes=memory.argument_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    kernels=work.kernel_names(module),
    collectives=collectives.count(module),
  )


def _measured(record, plan, rates, profile, **found):
  """The record with measurements; `profile` may be a reason for none."""
  predicted = plan.seconds(rates)
  shown = ('flops', 'memory_rate', 'page_rate')
  record = dataclasses.replace(
    record,
    device=device.name(),
    needed_bytes=plan.needed,
    flops=sum(w.flops for w in plan.work),
    moved=sum(w.bytes for w in plan.work),
    ceilings={key: rates[key] for key in shown if key in rates},
    predicted={
      key: getattr(predicted, key) for key in ('total', 'compute', 'memory')
    },
    **found,
  )
  if isinstance(profile, str):
    return dataclasses.replace(record, unprofiled=profile)
  peak = math.prod(record.mesh.values()) * (record.published or rates['flops'])
  ideal = record.model_flops / peak
  times = profile_breakdown.accounted(
    profile.times, profile.places, profile.steps, ideal
  )
  return dataclasses.replace(record, times=times)


def records(
  variants: Sequence[Variant], repeats: int, profiled: bool = False
) -> Iterator[Record]:
  """Yields records of each variant, also of those that fail."""
  cache = jax.config.jax_compilation_cache_dir
  for variant in variants:
    try:
      with processes.start(Worker, cache) as process:
        yield from process.call('measure', variant, repeats, profiled)
    except (UserError, RuntimeError) as e:
      config, reason = ConfigDict(variant.config), processes.reason(str(e))
      for side in variant.sides:
        yield _record(variant.name, side, config, failed=reason)


def compile_for(variant: Variant, topology: str) -> list[Record]:
  """Records of a compiled variant; raises UserError if it does not fit."""
  config, out = ConfigDict(variant.config), []
  mesh = topologies.mesh(topology, config.mesh.to_dict())
  for side, names in variant.sides.items():
    with kernels.prefer(**names):
      program = topologies.compile_for(
        topologies.platform(topology),
        mesh,
        lambda: steps.make(config, mesh).lower(),
        'choose a smaller batch, remat, or more devices',
      )
    out.append(_compiled(variant.name, side, config, mesh, program))
  return out
