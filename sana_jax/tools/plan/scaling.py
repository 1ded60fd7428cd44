"""Predicted throughput of a compiled layout on other numbers of chips.

Images per chip, and so compute time, stay; the sizes and links of collectives
change.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import NamedTuple

from sana_jax.analysis.chips import Chip
from sana_jax.analysis.collectives import bytes_sent, Collective
from sana_jax.tools.plan.report import Plan, seconds

# Chips of the largest slice; the network joins several slices.
_SLICES = {'v4': 4096, 'v5e': 256, 'v5p': 6144, 'v6e': 256, 'tpu7x': 9216}
_HOST = 8  # GPUs joined by NVLink.
COUNTS = tuple(2**i for i in range(11))  # 1 to 1024.


class Point(NamedTuple):
  """Images per second on a number of chips."""

  chips: int
  rate: float
  fits: bool


def curve(
  plan: Plan, counts: Sequence[int] = COUNTS, chip: Chip | None = None
) -> list[Point]:
  """Points for each number of chips that the model's groups divide."""
  chip = chip or plan.pod.chip
  found = []
  for count in counts:
    mesh = resized(plan.mesh, count * chip.devices)
    if mesh is None:
      continue
    rescaled = [_resized(c, plan.mesh, mesh, chip) for c in collectives(plan)]
    sent = [c for c in rescaled if c is not None]
    step = seconds(plan.work, sent, chip.of_device())
    rate = plan.per_chip * count / step.total
    found.append(Point(count, rate, needed(plan, mesh) <= plan.usable))
  return found


def needed(plan: Plan, mesh: Mapping[str, int]) -> float:
  """Bytes per device on another mesh, which shards the state differently."""
  kinds = ['parameters', 'average', 'optimizer']
  if plan.mode == 'train':
    kinds.append('parameters')  # As large as the gradients, temporaries.
  state = sum(plan.memory.get(kind, 0) for kind in kinds)
  parts = mesh.get('fsdp', 1) / plan.mesh.get('fsdp', 1)
  return plan.needed + state * (1 / parts - 1)


def resized(mesh: Mapping[str, int], devices: int) -> dict[str, int] | None:
  """The mesh on `devices` devices, with at most its fsdp and data for the rest;
  None if tensor and sequence do not divide."""
  fixed = mesh.get('tensor', 1) * mesh.get('sequence', 1)
  if devices % fixed:
    return None
  groups = devices // fixed
  fsdp = min(mesh.get('fsdp', 1), groups)
  if groups % fsdp:
    return None
  return {**mesh, 'data': groups // fsdp, 'fsdp': fsdp}


def collectives(plan: Plan) -> list[Collective]:
  """The plan's collectives; without a data axis, plus a gradient all-reduce."""
  if plan.mesh.get('data', 1) > 1 or plan.mode != 'train':
    return plan.collectives
  total = plan.memory.get('parameters', 0)
  link = 'ici' if plan.pod.chip.links else 'nvlink'
  ways = max(1, plan.pod.chip.links // 2)
  # Bytes of an infinite ring, which `_resized` scales.
  ring = Collective('all-reduce', 'data', link, ways, False, 1, 2.0 * total)
  return [*plan.collectives, ring]


def _resized(c, before, after, chip):
  """The collective on another mesh; None if one device remains."""
  axes = c.axes.split('+')
  was, n = (math.prod(mesh.get(a, 1) for a in axes) for mesh in (before, after))
  if n < 2:
    return None
  if c.kind != 'collective-permute':
    whole = bytes_sent('all-reduce', 1, was) if was > 1 else 2
    share = bytes_sent('all-reduce', 1, n) / whole
    c = dataclasses.replace(c, bytes=c.bytes * share)
  return _linked(c, axes, after, chip)


def _linked(c, axes, mesh, chip):
  """The collective with the links it crosses; data is the outermost axis."""
  inner = math.prod(n for a, n in mesh.items() if a != 'data')
  devices = math.prod(mesh.values())
  island = (_SLICES[chip.name] if chip.links else _HOST) * chip.devices
  span = devices if 'data' in axes else inner
  fast, slow = ('ici', 'dcn') if chip.links else ('nvlink', 'network')
  if span <= island:
    ways = c.ways if c.link == fast else max(1, chip.links // 2)
    return dataclasses.replace(c, link=fast, ways=ways)
  group = math.prod(mesh.get(a, 1) for a in axes)
  islands = devices // island
  return dataclasses.replace(
    c, link=slow, ways=max(1, group // islands) if 'data' in axes else island
  )
