"""Processes and devices of a topology, and clouds' names of its machines.

Names are those of Google's documentation and of xpk's table, read in November
2026: cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus,
cloud.google.com/tpu/docs/runtimes, github.com/AI-Hypercomputer/xpk
(system_characteristics.py).
"""

import dataclasses
import math
import re

from sana_jax.analysis import chips
from sana_jax.errors import did_you_mean, UserError
from sana_jax.launching import fields

_MOST = 64  # Limit of processes on CPUs, and of devices of each.
_SHOWN = 3
# Available slices of TPUs; larger cubes are multiples of 4, sorted.
_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))


@dataclasses.dataclass(frozen=True)
class Machines:
  """Machines of a topology.

  Attributes:
    kind: 'cpu', 'tpu' or 'gpu'.
    slices: number of slices, which have slow links between them; 1 for GPUs.
    hosts: hosts of a slice, each with one process.
    devices: chips of a host, or devices of a CPU.
  """

  name: str
  kind: str
  chip: str
  shape: tuple[int, ...]
  slices: int
  hosts: int
  devices: int

  @property
  def processes(self) -> int:
    return self.slices * self.hosts

  @property
  def chips(self) -> int:
    return self.processes * self.devices

  @property
  def grid(self) -> str:
    """Shape of a slice as text, such as 4x4x8."""
    return 'x'.join(map(str, self.shape))


@dataclasses.dataclass(frozen=True)
class Tpu:
  """Names of a TPU.

  Attributes:
    gke: value of the label cloud.google.com/gke-tpu-accelerator.
    xpk: prefix of the topology in --tpu-type.
    vm: prefix of the count in --accelerator-type; '' if only GKE has it.
    cores: cores per chip, for the count.
    runtime: software version of its VMs.
  """

  gke: str
  xpk: str
  vm: str
  cores: int
  runtime: str


TPUS = {
  'v4': Tpu('tpu-v4-podslice', 'v4', 'v4', 2, 'tpu-ubuntu2204-base'),
  'v5e': Tpu(
    'tpu-v5-lite-podslice', 'v5litepod', 'v5litepod', 1, 'v2-alpha-tpuv5-lite'
  ),
  'v5p': Tpu('tpu-v5p-slice', 'v5p', 'v5p', 2, 'v2-alpha-tpuv5'),
  'v6e': Tpu('tpu-v6e-slice', 'v6e', 'v6e', 1, 'v2-alpha-tpuv6e'),
  'tpu7x': Tpu('tpu7x', 'tpu7x', '', 2, ''),
}
# Values of the label cloud.google.com/gke-accelerator.
GPUS = {
  'a100': 'nvidia-a100-80gb',
  'h100': 'nvidia-h100-80gb',
  'h200': 'nvidia-h200-141gb',
  'b200': 'nvidia-b200',
}
_GPUS_PER_HOST = {'a100': (1, 2, 4, 8), 'h100': (1, 2, 4, 8)}


def parse(name: str) -> Machines:
  """Machines of `cpu:2x4` (processes x devices) or a topology of sana-jax plan.

  Raises UserError, with similar and allowed names, for other text.
  """
  fields.check_text('--topology', name)
  if not name.isascii():  # Digits of other scripts are digits to Python.
    raise UserError(
      f'--topology={name} is not ASCII.', key='--topology', value=name
    )
  kind, _, rest = name.partition(':')
  if kind == 'cpu':
    return _cpu(name, rest)
  if kind not in chips.CHIPS:
    known = (*chips.CHIPS, 'cpu')
    raise UserError(
      f'--topology={name} names an unknown chip'
      f'{did_you_mean(kind, known)}; allowed are {", ".join(known)}.',
      key='--topology',
      value=name,
      allowed=known,
    )
  found = chips.parse(name)
  return _gpu(found) if found.chip.is_gpu else _tpu(found)


def _cpu(name, rest):
  match = re.fullmatch(r'(\d{1,4})x(\d{1,4})', rest)
  sizes = [int(n) for n in match.groups()] if match else [0, 0]
  if not all(1 <= n <= _MOST for n in sizes):
    raise UserError(
      f'--topology={name} is not allowed; give cpu:PROCESSESxDEVICES with 1 to '
      f'{_MOST} of each, such as cpu:2x4.',
      key='--topology',
      value=name,
      allowed='cpu:PROCESSESxDEVICES',
    )
  return Machines(name, 'cpu', 'cpu', tuple(sizes), 1, *sizes)


def _tpu(found):
  known = shapes(len(found.shape))
  if found.shape not in known:
    count = math.prod(found.shape)
    by_size = sorted(known, key=lambda s: abs(math.log(math.prod(s) / count)))
    shown = sorted(by_size[:_SHOWN], key=math.prod)
    raise UserError(
      f'--topology={found.name} is not an available slice; similar ones are '
      f'{", ".join("x".join(map(str, s)) for s in shown)}.',
      key='--topology',
      value=found.name,
      allowed=shown,
    )
  count = math.prod(found.shape)
  a_host = min(4, count)
  return Machines(
    found.name,
    'tpu',
    found.chip.name,
    found.shape,
    found.slices,
    count // a_host,
    a_host,
  )


def _gpu(found):
  slices, hosts, gpus = found.shape
  allowed = range(1, 9)
  if gpus not in allowed:
    raise UserError(
      f'--topology={found.name} has {gpus} GPUs a host; 1 to 8 '
      f'are allowed, such as {found.chip.name}:1x4x8.',
      key='--topology',
      value=found.name,
      allowed=allowed,
    )
  return Machines(
    found.name, 'gpu', found.chip.name, found.shape, 1, slices * hosts, gpus
  )


def shapes(dimensions: int) -> tuple[tuple[int, ...], ...]:
  """Shapes of the slices of TPUs with a torus of this many dimensions."""
  if dimensions == 2:
    return _FLAT
  sides = range(4, 257, 4)
  cubes = tuple(
    (x, y, z)
    for x in sides
    for y in sides
    for z in sides
    if x <= y <= z and x * y * z <= 1024
  )
  return _CUBES + tuple(sorted(cubes, key=lambda s: (math.prod(s), s)))


def gpus_per_host(chip: str) -> tuple[int, ...]:
  """Numbers of GPUs that a Google Cloud machine can have."""
  return _GPUS_PER_HOST.get(chip, (8,))
