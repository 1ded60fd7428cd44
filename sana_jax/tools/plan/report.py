"""What is known of a layout after its step was compiled, and what follows.

A Plan holds facts about the program; `predict` says how long it would take,
by the data sheet's rates or measured ones.
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
  """A compiled program; bytes are of one device, FLOPs of all.

  Attributes:
    mesh: sizes of its axes.
    batch: images, over all devices.
    problem: why there is no program; '' where there is one.
    usable: bytes that a program may use of a device's memory.
    memory: bytes by what they are for.
    model_flops: that the mathematics takes; what remat repeats is not in it.
    hardware_flops: that the program takes.
    recomputed: operations that the compiler itself repeats to save memory.
    warnings: lines of the compiler's.
    kernels: calls of our own kernels, by name.
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

  @property
  def pod(self) -> chips.Topology:
    return chips.parse(self.topology)

  @property
  def needed(self) -> int:
    """Bytes of a device."""
    return sum(self.memory.values())

  @property
  def fits(self) -> bool:
    return not self.problem and self.needed <= self.usable

  @property
  def per_chip(self) -> float:
    """Images a chip."""
    return self.batch / self.pod.chips


@dataclasses.dataclass(frozen=True)
class Seconds:
  """Of a step.

  Attributes:
    compute, memory: what the operations would take that are bound by products
      and by memory.
    hidden: communication beside other work; exposed is what remains of it.
  """

  total: float
  compute: float
  memory: float
  hidden: float
  exposed: float

  @property
  def bound(self) -> str:
    """'compute', 'memory' or 'communication': what most of them go to."""
    parts = {
      'compute': self.compute,
      'memory': self.memory,
      'communication': self.exposed,
    }
    return max(parts, key=parts.get)


@dataclasses.dataclass(frozen=True)
class Prediction(Seconds):
  """Seconds of a step, and what they come to."""

  images_per_second: float
  mfu: float
  days: float
  chip_hours: float
  per_chip: float  # Images a second.


def seconds(
  done: Sequence[Work], sent: Sequence[Collective], device: Chip
) -> Seconds:
  """Of one device at the rates of `device`.

  Operations follow each other, each by its roofline; what the program starts
  early goes on beside them and costs what is left of it; the rest of the
  communication is waited for.
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
  """By the rates of `chip`, which is what the topology names by default."""
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
  """What `dataclasses.asdict` made, perhaps through JSON."""
  lists = {
    'work': [Work(*x) for x in facts['work']],
    'temporaries': [Temporary(*x) for x in facts['temporaries']],
    'collectives': [Collective(**x) for x in facts['collectives']],
  }
  return Plan(**facts | lists)


def ranked(plans: Sequence[Plan], chip: Chip | None = None) -> list[Plan]:
  """The fastest first, then what does not fit, the nearest first."""

  def key(plan):
    if plan.problem:
      return (2, 0.0)
    if not plan.fits:
      return (1, plan.needed - plan.usable)
    return (0, -predict(plan, chip).images_per_second)

  return sorted(plans, key=key)
