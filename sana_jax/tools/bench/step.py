"""Train steps on random data: timed, predicted, profiled, or only compiled.

It is the step that `sana-jax train` runs: flow matching on cached latents and
text, the optimizer, the average of the weights, with all that is checked. Each
variant has a process of its own: one that does not fit, or brings its device
down, costs itself alone, and none finds the memory as another has left it.
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
  """What one process measures.

  Attributes:
    name: of the config, as it was asked for.
    config: its values.
    sides: by name, the backends of ops, or one of timing.SIDES. They take turns
      from one state.
  """

  name: str
  config: dict[str, Any]
  sides: Mapping[str, Mapping[str, str] | str]


@dataclasses.dataclass(frozen=True)
class Record:
  """One side of a variant, measured or compiled; bytes are of one device.

  Attributes:
    config, by: its name, and the side's.
    seconds: of a step, in each round; empty where it was not run.
    failed: why not, in a line.
    forward_flops: of the batch.
    state_bytes: weights, average, moments and the batch.
    used_bytes: measured; None where the system does not tell.
    needed_bytes: predicted.
    predicted: seconds: `total`, and those of operations that are bound by
      products (`compute`) and by memory (`memory`).
    flops, moved: of the program; bytes that its operations read and write.
    ceilings: measured: `flops` of a product, `memory_rate` of a copy, and
      `page_rate`, bytes a second of new memory, on a CPU.
    times: of a profile, by kind of operation, the largest loss first.
    unprofiled: why there is none, in a line.
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
  forward_flops: int = 0
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
    """Noise only ever adds to a time."""
    return min(self.seconds, default=math.nan)

  @property
  def median(self) -> float:
    return statistics.median(self.seconds)

  @property
  def published(self) -> float | None:
    """FLOP/s of a device by its data sheet."""
    return device.peak_flops(self.device)

  def mfu(self, peak: float) -> float:
    """Model FLOPs a second and device, by `peak`."""
    devices = math.prod(self.mesh.values())
    return 3 * self.forward_flops / self.best / devices / peak


class Read(NamedTuple):
  """What a plan knows of a program; `needed` are bytes, as of a Plan."""

  work: list[work.Work]
  collectives: list[collectives.Collective]
  needed: int

  def seconds(self, rates: Mapping[str, Any]) -> report.Seconds:
    """Of a step, at rates that were measured on this device."""
    here = ceilings.device_of(device.name(), rates)
    return report.seconds(self.work, self.collectives, here)


def read(
  step: jax.stages.Compiled,
  program: steps.Program,
  config: ConfigDict,
  mesh: Mesh,
) -> Read:
  """As a plan has it of a compiled program."""
  module = hlo.parse(step.as_text())
  here = [collectives.Place((), 0)] * mesh.size
  forward = steps.forward_flops(config) * config.batch_size
  expected = forward * steps.run_passes(config, 'train') / mesh.size
  return Read(
    work.of_program(module, expected),
    collectives.find(module, dict(mesh.shape), here),
    sum(compiling.memory(step, program).values()),
  )


class Worker:
  """What a process does for its variant."""

  def __init__(self, cache: str | None):
    """`cache` keeps compiled programs."""
    compilation_cache.enable(cache)

  def measure(
    self, variant: Variant, repeats: int, profiled: bool
  ) -> list[Record]:
    """Times rounds of steps, reads the programs, and traces some steps."""
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
  """The state, and a profile, or why there is none; it costs that alone."""
  try:
    return timing.profile(step, state, rest)
  except Exception as e:  # noqa: BLE001
    return state, f'{type(e).__name__}: {e}'[:200]


def _record(name, side, config, **facts):
  own = config.batch_size, config.dtype, config.model.remat
  return Record(name, side, *own, **facts)


def _compiled(name, side, config, mesh, program):
  """A Record of what the compiler says."""
  memory, module = program.memory_analysis(), hlo.parse(program.as_text())
  return _record(
    name,
    side,
    config,
    mesh=dict(mesh.shape),
    forward_flops=config.batch_size * steps.forward_flops(config),
    state_bytes=memory.argument_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    kernels=work.kernel_names(module),
    collectives=collectives.count(module),
  )


def _measured(record, plan, rates, profile, **found):
  """The record with what was measured; `profile` may be why there is none."""
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
  ideal = 3 * record.forward_flops / peak
  times = profile_breakdown.accounted(
    profile.times, profile.places, profile.steps, ideal
  )
  return dataclasses.replace(record, times=times)


def records(
  asked: Sequence[Variant], repeats: int, profiled: bool = False
) -> Iterator[Record]:
  """Of each variant in turn; one that fails says so, and the next one runs."""
  cache = jax.config.jax_compilation_cache_dir
  for variant in asked:
    try:
      with processes.start(Worker, cache) as process:
        yield from process.ask('measure', variant, repeats, profiled)
    except (UserError, RuntimeError) as e:
      config, reason = ConfigDict(variant.config), processes.reason(str(e))
      for side in variant.sides:
        yield _record(variant.name, side, config, failed=reason)


def compile_for(variant: Variant, topology: str) -> list[Record]:
  """What the compiler of a topology says; UserError where it does not fit."""
  config, out = ConfigDict(variant.config), []
  mesh = topologies.mesh(topology, config.mesh.to_dict())
  for side, names in variant.sides.items():
    with kernels.prefer(**names):
      program = topologies.compile_for(
        topologies.platform(topology),
        mesh,
        lambda: steps.make(config, mesh).lower(),
        'take a smaller batch, remat, or more devices',
      )
    out.append(_compiled(variant.name, side, config, mesh, program))
  return out
