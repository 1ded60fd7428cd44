"""What a plan says of a train step beside what the step does, on one device.

The program is the one that `sana-jax plan` compiles, for a device that is here;
it is read in the same way, at ceilings measured in the same process, and then
run on random data.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import statistics
import time
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax import compiled, kernels
from sana_jax.analysis import ceilings, collectives, device, hlo, work
from sana_jax.errors import UserError
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.bench import ours, processes, resident, timing
from sana_jax.tools.plan import compiling, report, steps
from sana_jax.training.throughput import host_bytes

_WARM = 2  # The first step makes pages and caches, the second uses them.


class Read(NamedTuple):
  """What a plan knows of a program; `needed` are bytes, as of a Plan."""

  work: list[work.Work]
  collectives: list[collectives.Collective]
  needed: int
  temporaries: int


@dataclasses.dataclass(frozen=True)
class Record:
  """A config's step.

  Attributes:
    config: as it was asked for.
    batch: images.
    device: its kind.
    seconds: measured, of each step.
    predicted: seconds, of which `compute` are of operations that are bound by
      products, and `memory` of those bound by memory.
    needed: bytes of the device, predicted.
    used: measured; None where the system does not tell.
    flops, moved: of the program; bytes that its operations read and write.
    matmul_flops, memory_rate: the ceilings, measured.
    temporaries: bytes, of `needed`.
    page_rate: bytes a second of new memory; 0 but on a CPU.
    failed: why nothing was measured, in a line.
  """

  config: str
  dtype: str
  batch: int
  device: str = ''
  seconds: list[float] = dataclasses.field(default_factory=list)
  predicted: float = 0.0
  compute: float = 0.0
  memory: float = 0.0
  needed: int = 0
  used: int | None = None
  flops: float = 0.0
  moved: float = 0.0
  matmul_flops: float = 0.0
  memory_rate: float = 0.0
  temporaries: int = 0
  page_rate: float = 0.0
  failed: str = ''

  @property
  def best(self) -> float:
    """Noise only ever adds to a time."""
    return min(self.seconds)

  @property
  def median(self) -> float:
    return statistics.median(self.seconds)


class Worker:
  """What a process does for its config."""

  def __init__(self, cache: str | None):
    """`cache` keeps compiled programs."""
    compiled.keep(cache)

  def measure(self, name: str, values: Mapping[str, Any],
              repeats: int) -> Record:
    """Compiles and reads the step, runs it, and measures the ceilings."""
    config = ConfigDict(values)
    mesh = make_mesh(config.mesh.to_dict(), jax.devices()[:1])
    chosen = {op: name for op, name in config.kernels.items() if name}
    with kernels.prefer(**chosen), jax.set_mesh(mesh):
      program = steps.make(config, mesh)
      step = program.lower().compile()
      found = read(step, program, config, mesh)
      seconds, used = run(step, program, repeats)
    # Afterwards: what they allocate would count as the step's.
    rates = ceilings.measure(config.dtype)
    predicted = report.seconds(
      found.work, found.collectives,
      ceilings.device_of(mesh.devices.flat[0].device_kind, rates))
    return Record(
      name, config.dtype, config.batch_size, device.name(), seconds,
      predicted.total, predicted.compute, predicted.memory, found.needed, used,
      sum(w.flops for w in found.work), sum(w.bytes for w in found.work),
      rates['flops'], rates['memory_rate'], found.temporaries,
      resident.page_rate() if jax.default_backend() == 'cpu' else 0.0)


def read(step: jax.stages.Compiled, program: steps.Program,
         config: ConfigDict, mesh: Mesh) -> Read:
  """As a plan has it of a compiled program for one device."""
  module = hlo.parse(step.as_text())
  expected = (steps.forward_flops(config) * config.batch_size
              * steps.run_passes(config, 'train') / mesh.size)
  done = work.of_program(module, expected)
  memory = compiling.memory(step, {
    name: compiling.of_device(tree) for name, tree in program.parts.items()})
  return Read(
    done, collectives.find(
      module, dict(mesh.shape), [collectives.Place((), 0)] * mesh.size),
    sum(memory.values()), memory['temporaries'])


def run(step: jax.stages.Compiled, program: steps.Program,
        repeats: int) -> tuple[list[float], int | None]:
  """Seconds of each step after a warm-up, and bytes that it had in use.

  On a CPU these are what the process has more than before it made the
  arguments, at most and while steps run: compiling is not in it.
  """
  key = jax.random.key(0)
  init = program.init.lower(key).compile()
  resident.trim()  # Else steps would use what compiling has left.
  before = host_bytes()
  state = init(key)
  rest = jax.tree.map(timing.filled, program.args[1:])
  seconds = []
  for number in range(_WARM + repeats):
    if number == _WARM:
      resident.trim()  # What making the state has left.
      resident.forget_peak()
    start = time.perf_counter()
    state, metrics = jax.block_until_ready(step(state, *rest))
    seconds.append(time.perf_counter() - start)
  del metrics
  if int(state.skipped):
    raise UserError('The loss was not finite; nothing was measured.')
  used = ours.peak_bytes()
  if used is None and before is not None:
    used = resident.peak_bytes() - before
  return seconds[_WARM:], used


def records(
  asked: Sequence[tuple[str, ConfigDict]], repeats: int
) -> Iterator[Record]:
  """Of each (name, config), in a process of its own.

  One that fails says so, and the next one runs.
  """
  for name, config in asked:
    try:
      with processes.start(
          Worker, jax.config.jax_compilation_cache_dir) as side:
        yield side.ask('measure', name, config.to_dict(), repeats)
    except (UserError, RuntimeError) as e:
      yield Record(name, config.dtype, config.batch_size,
                   failed=processes.reason(str(e)))
