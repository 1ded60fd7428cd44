"""Collectives of a compiled program: bytes, mesh axes and link type.

Bytes are those that one device sends in a ring (Thakur et al., 2005): an
all-gather of parts of s bytes over n devices sends (n - 1) s, a reduce-scatter
of s bytes (n - 1) / n s, an all-reduce both.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
import math
import re
from typing import NamedTuple

import numpy as np

from sana_jax.analysis import hlo
from sana_jax.analysis.chips import Chip

KINDS = (
  'all-gather',
  'reduce-scatter',
  'all-reduce',
  'all-to-all',
  'collective-permute',
)
_OTHERS = 'ragged-all-to-all|collective-broadcast'
_OPCODE = re.compile(rf'({"|".join(KINDS)}|{_OTHERS})(-start)?')

_IOTA = re.compile(
  r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?'
)
_NAMED_MESH = re.compile(
  r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\]'
  r'(?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}'
)


class Place(NamedTuple):
  """Position of a device."""

  coords: tuple[int, ...]  # Position in the slice's torus; () for GPUs.
  island: int  # Slice or host, within which links are fast.


@dataclasses.dataclass(frozen=True)
class Collective:
  """Identical collectives of one step, merged.

  Attributes:
    axes: mesh axes, such as 'fsdp' or 'data+fsdp'.
    count: number of calls.
    bytes: bytes that one device sends in all of them.
    link: slowest link crossed: 'ici', 'dcn', 'nvlink' or 'network'.
    ways: ICI links in use per chip; for other links, the group's members in
      one slice or host, which share its adapters.
    hidden: whether it overlaps with other work.
  """

  kind: str
  axes: str
  link: str
  ways: int
  hidden: bool
  count: int = 0
  bytes: float = 0.0

  def seconds(self, chip: Chip) -> float:
    """Seconds of all of them in sequence, at the chip's rates."""
    if self.link == 'ici':
      return self.bytes / (chip.link_rate * self.ways / chip.links)
    if self.link == 'nvlink':
      return self.bytes / chip.link_rate
    return self.bytes / min(chip.link_rate, self.ways * chip.network_rate)


def find(
  module: hlo.Module,
  mesh: Mapping[str, int],
  places: Sequence[Place],
  torus: Sequence[int] = (),
) -> list[Collective]:
  """Collectives of a program, identical ones merged.

  Args:
    mesh: sizes of the mesh's axes.
    places: positions of the devices, in mesh order.
    torus: sizes of a slice's torus; empty for GPUs.
  """
  total, seen = {}, set()
  for step, x, local in _all(module):
    kind, hidden = _kind(x, step)
    chain = re.search(r'chain_id="(\d+)"', x.attributes)
    if chain:  # TPUs split one into pieces that overlap with other work.
      key = (chain[1], x.name.partition('.')[0], _channel(x))
      if key in seen:
        continue
      seen.add(key)
    group = members(x.attributes, len(places))
    if len(group) < 2:
      continue
    operand = sum(hlo.size(local[o].shape) for o in x.operands if o in local)
    link = _link(group, places, torus)
    one = Collective(kind, _axes(group, mesh), *link, hidden)
    count, sent = total.get(one, (0, 0.0))
    sent += step.times * bytes_sent(kind, operand, len(group))
    total[one] = (count + step.times, sent)
  return [
    dataclasses.replace(one, count=count, bytes=sent)
    for one, (count, sent) in total.items()
  ]


def kind_of(x: hlo.Instruction) -> str:
  """Kind of a collective, without '-start'; '' for other instructions."""
  found = _OPCODE.fullmatch(x.opcode)
  return found[1] if found else ''


def count(module: hlo.Module) -> dict[str, int]:
  """Calls of each kind in a program; those in a loop count once."""
  return dict(Counter(filter(None, map(kind_of, module.instructions()))))


def bytes_sent(kind: str, operand: int, n: int) -> float:
  """Bytes sent by one of n devices that has `operand` bytes."""
  return float(operand) * {
    'all-gather': n - 1,
    'all-reduce': 2 * (n - 1) / n,
    'collective-permute': 1,
  }.get(kind, (n - 1) / n)


def members(attributes: str, devices: int) -> list[int]:
  """Devices of the first group of a collective."""
  if found := re.search(r'source_target_pairs=\{\{(\d+),(\d+)\}', attributes):
    return [int(found[1]), int(found[2])]
  if found := re.search(r'replica_groups=\{\{([\d,]+)\}', attributes):
    return [int(i) for i in found[1].split(',')]
  if found := _IOTA.search(attributes):
    ids = _iota(found[3], found[4])
    return ids.reshape(int(found[1]), int(found[2]))[0].tolist()
  if found := _NAMED_MESH.search(attributes):
    return _of_named_mesh(*found.groups())
  return list(range(devices))


def _of_named_mesh(axes, sizes, order, chosen):
  """First group in XLA's named mesh: 'axis_0'=64,'axis_1'=4.

  `'axis_0':(2)4` is the part of size 4 of an axis, after one of size 2.
  """
  shape = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes)}
  parts = {
    name: (int(before or 1), int(n or shape[name]))
    for name, before, n in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", chosen)
  }
  split, index = [], []
  for name, size in shape.items():
    before, n = parts.get(name, (size, 1))
    split += [before, n, size // (before * n)]
    index += [0, slice(None), 0]
  ids = _iota(sizes, order) if sizes else np.arange(math.prod(split))
  return ids.reshape(split)[tuple(index)].ravel().tolist()


def _iota(sizes, order):
  """iota of these sizes, transposed to this order of axes."""
  shape = [int(n) for n in sizes.split(',')]
  ids = np.arange(math.prod(shape)).reshape(shape)
  return ids.transpose([int(i) for i in order.split(',')] if order else None)


def _all(module):
  """Yields (step, instruction, its computation) of each collective."""
  for step in module.steps():
    x = step.instruction
    if x.opcode == 'fusion':
      local = module.computations.get(x.called(), {})
      yield from (
        (step, i, local) for i in local.values() if _OPCODE.fullmatch(i.opcode)
      )
    elif _OPCODE.fullmatch(x.opcode):
      yield step, x, module.computations[step.computation]


def _kind(x, step):
  """(kind, whether it overlaps with other work)."""
  kind, start = _OPCODE.fullmatch(x.opcode).groups()
  around = step.instruction
  started = bool(start) and '"is_sync":true' not in x.attributes
  hidden = started or 'chain_id=' in x.attributes or step.beside
  if kind == 'all-reduce' and 'all-reduce-scatter' in around.called():
    return 'reduce-scatter', hidden
  return kind, hidden


def _channel(x):
  found = re.search(r'channel_id=(\d+)', x.attributes)
  return found[1] if found else ''


def _axes(group, mesh):
  """Names of the axes along which a group's devices differ."""
  at = np.array(np.unravel_index(group, tuple(mesh.values())))
  return '+'.join(
    name for name, places in zip(mesh, at) if len(set(places.tolist())) > 1
  )


def _link(group, places, torus):
  """(slowest link of a group, how many links or members share it)."""
  here = [places[i] for i in group]
  islands = Counter(p.island for p in here)
  if len(islands) > 1:
    return 'dcn' if torus else 'network', max(islands.values())
  if not torus:
    return 'nvlink', 1
  ways = 0
  for axis in range(len(torus)):
    extent = len({p.coords[axis] for p in here})
    # A closed ring sends in both directions.
    ways += 0 if extent == 1 else 2 if closes(torus, axis, extent) else 1
  return 'ici', max(1, ways)


def closes(torus: Sequence[int], axis: int, extent: int) -> bool:
  """Whether `extent` chips along a dimension of a slice form a ring.

  Links wrap around 16 chips of the flat v5e and v6e, and cubes of four.
  """
  if extent != torus[axis]:
    return False
  return extent == 16 if len(torus) == 2 else all(n % 4 == 0 for n in torus)
