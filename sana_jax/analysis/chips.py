"""Table of chips by their data sheets.

Rates are of one chip: dense bfloat16 for matmuls, one direction for links.
Sources, read in November 2026:

  TPUs   cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}: FLOP/s, HBM, ICI (its
         figure counts both directions: halved here) and data center network
         (DCN, a chip's part of its host's or pod's). v4: its ICI is 6 links of
         50 GB/s (arXiv:2304.01433); its DCN is not stated, v5p's stands here.
  GPUs   NVIDIA's data sheets of A100, H100 and H200 (SXM) and HGX B200, whose
         headlines count sparse products double and NVLink in both directions;
         network: one 200 (A100) or 400 Gb/s adapter a GPU, as in DGX systems.

Usable memory of a TPU is the limit that libtpu 0.0.42 reports when a program
does not fit; of a GPU, JAX's share with XLA_PYTHON_CLIENT_MEM_FRACTION=0.92
(its default is 0.75).
"""

import dataclasses
import math
import re

from sana_jax.errors import did_you_mean, UserError
from sana_jax.printable import counted

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of chip.

  Attributes:
    kinds: names of its devices in JAX.
    devices: JAX devices per chip.
    usable: bytes of memory that a program may use.
    links: ICI links, two per dimension of the torus; 0 for a switch.
    link_rate: bytes per second sent over all links within a slice or host.
    network_rate: bytes per second sent to other slices or hosts.
  """

  name: str
  kinds: tuple[str, ...]
  flops: float
  memory: float
  usable: float
  memory_rate: float
  links: int
  link_rate: float
  network_rate: float
  devices: int = 1

  @property
  def is_gpu(self) -> bool:
    return not self.links

  def of_device(self) -> 'Chip':
    """One JAX device of the chip, with its share of the rates and memory."""
    shared = [f.name for f in dataclasses.fields(self) if f.type is float]
    parts = {key: getattr(self, key) / self.devices for key in shared}
    return dataclasses.replace(self, devices=1, **parts)


def _chip(name, kinds, tflops, memory, usable, links, rates, devices=1):
  """A Chip; `rates` are GB/s of memory and links, Gbit/s of the network."""
  ram, fast, slow = (1e9 * rate for rate in rates)
  flops, whole = 1e12 * tflops, (float(memory), float(usable))
  return Chip(name, kinds, flops, *whole, ram, links, fast, slow / 8, devices)


def _tpu(name, kinds, tflops, memory, usable, *rest, **more):
  """A TPU, with memory in GiB."""
  sizes = memory * GIB, usable * GIB
  return _chip(name, kinds, tflops, *sizes, *rest, **more)


def _gpu(name, kinds, tflops, gigabytes, *rates):
  memory = gigabytes * 1e9
  return _chip(name, kinds, tflops, memory, 0.92 * memory, 0, rates)


CHIPS = {
  chip.name: chip
  for chip in (
    _tpu('v4', ('TPU v4',), 275, 32, 30.75, 6, (1228, 300, 50)),
    _tpu('v5e', ('TPU v5 lite', 'TPU v5e'), 197, 16, 15.75, 4, (819, 200, 25)),
    _tpu('v5p', ('TPU v5', 'TPU v5p'), 459, 95, 95.74, 6, (2765, 600, 50)),
    _tpu(
      'v6e', ('TPU v6 lite', 'TPU v6e'), 918, 32, 31.25, 4, (1638, 400, 100)
    ),
    _tpu('tpu7x', ('TPU7x',), 2307, 192, 189.5, 6, (7380, 600, 100), devices=2),
    _gpu('a100', ('NVIDIA A100-SXM4-80GB',), 312, 80, 2039, 300, 200),
    _gpu('h100', ('NVIDIA H100 80GB HBM3',), 989, 80, 3350, 450, 400),
    _gpu('h200', ('NVIDIA H200',), 989, 141, 4800, 450, 400),
    _gpu('b200', ('NVIDIA B200',), 2250, 180, 8000, 900, 400),
  )
}
TPUS = tuple(name for name, chip in CHIPS.items() if not chip.is_gpu)
GPUS = tuple(name for name, chip in CHIPS.items() if chip.is_gpu)


def get(name: str) -> Chip:
  """Chip of a name; raises UserError with the nearest names if unknown."""
  if name in CHIPS:
    return CHIPS[name]
  raise UserError(
    f'{name!r} is no chip that is known{did_you_mean(name, CHIPS)}; allowed '
    f'are {", ".join(CHIPS)}.',
    key='topology',
    value=name,
    allowed=CHIPS,
  )


def of_kind(kind: str) -> Chip | None:
  """Chip by JAX's device kind; None for a CPU or an unknown kind."""
  return next((c for c in CHIPS.values() if kind in c.kinds), None)


@dataclasses.dataclass(frozen=True)
class Topology:
  """A pod: `v5p:4x4x8`, `v5e:16x16@2` (two slices) or `h200:1x4x8`.

  Attributes:
    shape: shape of a TPU slice, or slices x hosts x GPUs.
    slices: TPU slices, joined by a slow network.
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def chips(self) -> int:
    return self.slices * math.prod(self.shape)

  @property
  def devices(self) -> int:
    """Number of JAX devices."""
    return self.chips * self.chip.devices


# Dimensions of the torus (0 for GPUs) -> valid shapes.
_EXAMPLES = {0: ['1x4x8'], 2: ['4x4', '16x16@2'], 3: ['2x2x1', '4x4x8@2']}


def parse(name: str) -> Topology:
  """Topology of a name; raises UserError with the allowed form if invalid."""
  kind, _, rest = name.partition(':')
  chip = get(kind)
  axes = chip.links // 2
  if chip.is_gpu:
    most, form, what = 256, r'(\d+x\d+x\d+)()', 'SLICESxHOSTSxGPUS'
  else:
    most, form = 1024, rf'(\d+(?:x\d+){{{axes - 1}}})(?:@(\d+))?'
    what = f'{axes} sizes and, for several slices, @SLICES'
  example = ' or '.join(f'{kind}:{x}' for x in _EXAMPLES[axes])
  match = re.fullmatch(form, rest)
  if match is None:
    raise UserError(
      f'{name!r} is no topology of {kind}; give {what}, such as {example}.',
      key='topology',
      value=name,
      allowed=f'{what}, such as {example}',
    )
  shape = tuple(map(int, match[1].split('x')))
  found = Topology(name, chip, shape, int(match[2] or 1))
  if not 1 <= found.chips <= most:
    raise UserError(
      f'{name!r} has {counted(found.chips, "chip")}; 1 to {most} are '
      f'allowed: give a shape such as {example}.',
      key='topology',
      value=name,
      allowed=range(1, most + 1),
    )
  return found
