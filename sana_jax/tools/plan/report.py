"""Plans of compiled programs, and predictions of their step time.

A Plan holds facts about the program; `predict` gives its time at data sheet or
measured rates.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

from sana_jax.analysis import chips, work
from sana_jax.analysis.buffers import Temporary
from sana_jax.analysis.chips import Chip
from sana_jax.analysis.collectives import Collective
from sana_jax.analysis.work import Work


@dataclasses.dataclass(frozen=True)
class Plan:
  """Facts about a compiled program; bytes are per device, FLOPs in total.

  Attributes:
    mesh: sizes of the mesh's axes.
    batch: global batch size.
    problem: why there is no program; '' if there is one.
    usable: bytes of a device's memory that a program may use.
    memory: bytes by kind.
    model_flops: FLOPs of the model, without recomputation by remat.
    hardware_flops: FLOPs of the program.
    recomputed: operations that the compiler recomputes to save memory.
    warnings: lines of the compiler.
    kernels: calls of this project's kernels, by name.
    program: digest of the lowered program's text.
  """

  layout: str
  topology: str
  mode: str
  mesh: dict[str, int]
  batch: int
  num_steps: int
  problem: str = ''
  usable: float = 0.0
  memory: dict[str, int] = dataclasses.field(default_factory=dict)
  model_flops: float = 0.0
  hardware_flops: float = 0.0
  work: list[Work] = dataclasses.field(default_factory=list)
  collectives: list[Collective] = dataclasses.field(default_factory=list)
  temporaries: list[Temporary] = dataclasses.field(default_factory=list)
  recomputed: int = 0
  warnings: list[str] = dataclasses.field(default_factory=list)
  kernels: dict[str, int] = dataclasses.field(default_factory=dict)
  compile_seconds: float = 0.0
  versions: dict[str, str] = dataclasses.field(default_factory=dict)
  program: str = ''

  @property
  def pod(self) -> chips.Topology:
    return chips.parse(self.topology)

  @property
  def needed(self) -> int:
    """Bytes per device."""
    return sum(self.memory.values())

  @property
  def fits(self) -> bool:
    return not self.problem and self.needed <= self.usable

  @property
  def per_chip(self) -> float:
    """Images per chip."""
    return self.batch / self.pod.chips


@dataclasses.dataclass(frozen=True)
class Seconds:
  """Seconds of a step, by what bounds them.

  Attributes:
    compute, memory: operations bound by FLOPs, and by memory traffic.
    hidden, exposed: communication that overlaps with other work, and the rest.
  """

  total: float
  compute: float
  memory: float
  hidden: float
  exposed: float

  @property
  def bound(self) -> str:
    """The largest part: 'compute', 'memory' or 'communication'."""
    parts = {
      'compute': self.compute,
      'memory': self.memory,
      'communication': self.exposed,
    }
    return max(parts, key=parts.get)


@dataclasses.dataclass(frozen=True)
class Prediction(Seconds):
  """Seconds of a step, with throughput and utilisation."""

  images_per_second: float
  mfu: float
  days: float
  chip_hours: float
  per_chip: float  # Images per second.


def seconds(
  done: Sequence[Work], sent: Sequence[Collective], device: Chip
) -> Seconds:
  """Seconds of a step at the rates of `device`.

  Operations run in sequence, each by its roofline. Asynchronous communication
  overlaps with them and costs its excess; other communication is exposed.
  """
  of = [(w.flops / device.flops, w.bytes / device.memory_rate) for w in done]
  compute = sum((f for f, b in of if f >= b), 0.0)
  memory = sum((b for f, b in of if f < b), 0.0)
  own = work.seconds(done, device)
  hidden = sum((c.seconds(device) for c in sent if c.hidden), 0.0)
  waited = sum((c.seconds(device) for c in sent if not c.hidden), 0.0)
  exposed = waited + max(0.0, hidden - own)
  return Seconds(own + exposed, compute, memory, min(hidden, own), exposed)


def predict(plan: Plan, chip: Chip | None = None) -> Prediction:
  """Prediction at the rates of `chip`, by default the topology's."""
  pod = plan.pod
  device = (chip or pod.chip).of_device()
  step = seconds(plan.work, plan.collectives, device)
  hours = step.total * plan.num_steps / 3600
  return Prediction(
    **vars(step),
    images_per_second=plan.batch / step.total,
    mfu=plan.model_flops / step.total / (device.flops * pod.devices),
    days=hours / 24,
    chip_hours=hours * pod.chips,
    per_chip=plan.per_chip / step.total,
  )


def from_dict(facts: dict[str, Any]) -> Plan:
  """Plan from the result of `dataclasses.asdict`, also through JSON."""
  lists = {
    'work': [Work(*x) for x in facts['work']],
    'temporaries': [Temporary(*x) for x in facts['temporaries']],
    'collectives': [Collective(**x) for x in facts['collectives']],
  }
  return Plan(**facts | lists)


def ranked(plans: Sequence[Plan], chip: Chip | None = None) -> list[Plan]:
  """Plans that fit, fastest first, then the others, least excess first."""

  def key(plan):
    if plan.problem:
      return (2, 0.0)
    if not plan.fits:
      return (1, plan.needed - plan.usable)
    return (0, -predict(plan, chip).images_per_second)

  return sorted(plans, key=key)
