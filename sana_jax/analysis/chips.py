"""What chips can do by their data sheets: the one table of it.

Rates are of one chip, dense bfloat16 for products, and of one direction for
links. Sources, read in November 2026:

  TPUs   cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}: FLOP/s, HBM, ICI (its
         figure counts both directions: halved here) and data center network
         (DCN, a chip's part of its host's or pod's). v4: its ICI is 6 links of
         50 GB/s (arXiv:2304.01433); its DCN is not stated, v5p's stands here.
  GPUs   NVIDIA's data sheets of A100, H100 and H200 (SXM) and HGX B200, whose
         headlines count sparse products double and NVLink in both directions;
         network: one 200 (A100) or 400 Gb/s adapter a GPU, as in DGX systems.

What a program may use of a TPU's memory is what libtpu 0.0.42 says when one
does not fit. A GPU's is what JAX may take with XLA_PYTHON_CLIENT_MEM_FRACTION
set to 0.92 (its default is 0.75).
"""

import dataclasses
import math
import re

from sana_jax.errors import did_you_mean, UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of chip.

  Attributes:
    kinds: what JAX calls its devices.
    devices: of JAX, that a chip is.
    usable: bytes of memory that a program may use.
    links: ICI links, two for each dimension of the torus; 0 for a switch.
    link_rate: bytes a second that leave over all links within a slice or host.
    network_rate: bytes a second that leave to other slices or hosts.
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
    """The same for one of JAX's devices, where a chip is several."""
    parts = {
      key: getattr(self, key) / self.devices
      for key in (
        'flops',
        'memory',
        'usable',
        'memory_rate',
        'link_rate',
        'network_rate',
      )
    }
    return dataclasses.replace(self, devices=1, **parts)


def _tpu(
  name,
  kinds,
  tflops,
  memory,
  usable,
  rate,
  links,
  link_rate,
  network,
  devices=1,
):
  """Units: TFLOP/s, GiB, GB/s; the network's are Gbit/s."""
  return Chip(
    name,
    kinds,
    tflops * 1e12,
    float(memory * GIB),
    float(usable * GIB),
    rate * 1e9,
    links,
    link_rate * 1e9,
    network * 1e9 / 8,
    devices,
  )


def _gpu(name, kinds, tflops, gigabytes, rate, link_rate, network):
  """Units: TFLOP/s, GB, GB/s; the network's are Gbit/s."""
  return Chip(
    name,
    kinds,
    tflops * 1e12,
    gigabytes * 1e9,
    0.92 * gigabytes * 1e9,
    rate * 1e9,
    0,
    link_rate * 1e9,
    network * 1e9 / 8,
  )


CHIPS = {
  chip.name: chip
  for chip in (
    _tpu('v4', ('TPU v4',), 275, 32, 30.75, 1228, 6, 300, 50),
    _tpu('v5e', ('TPU v5 lite', 'TPU v5e'), 197, 16, 15.75, 819, 4, 200, 25),
    _tpu('v5p', ('TPU v5', 'TPU v5p'), 459, 95, 95.74, 2765, 6, 600, 50),
    _tpu('v6e', ('TPU v6 lite', 'TPU v6e'), 918, 32, 31.25, 1638, 4, 400, 100),
    _tpu('tpu7x', ('TPU7x',), 2307, 192, 189.5, 7380, 6, 600, 100, devices=2),
    _gpu('a100', ('NVIDIA A100-SXM4-80GB',), 312, 80, 2039, 300, 200),
    _gpu('h100', ('NVIDIA H100 80GB HBM3',), 989, 80, 3350, 450, 400),
    _gpu('h200', ('NVIDIA H200',), 989, 141, 4800, 450, 400),
    _gpu('b200', ('NVIDIA B200',), 2250, 180, 8000, 900, 400),
  )
}
TPUS = tuple(name for name, chip in CHIPS.items() if not chip.is_gpu)
GPUS = tuple(name for name, chip in CHIPS.items() if chip.is_gpu)


def get(name: str) -> Chip:
  """The chip of a name; UserError, with the nearest names, if there is none."""
  if name in CHIPS:
    return CHIPS[name]
  raise UserError(
    f'{name!r} is no chip that is known{did_you_mean(name, CHIPS)}; allowed '
    f'are {", ".join(CHIPS)}.'
  )


def of_kind(kind: str) -> Chip | None:
  """Chip by JAX's name of its devices; None for a CPU or another."""
  return next((c for c in CHIPS.values() if kind in c.kinds), None)


@dataclasses.dataclass(frozen=True)
class Topology:
  """A pod: `v5p:4x4x8`, `v5e:16x16@2` (two slices) or `h200:1x4x8`.

  Attributes:
    shape: of a slice of TPUs, or slices x hosts x GPUs.
    slices: joined by a slow network.
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
    """Number of devices as JAX counts."""
    return self.chips * self.chip.devices


def parse(name: str) -> Topology:
  """A topology's name; UserError, with what is allowed, for another text."""
  kind, _, rest = name.partition(':')
  chip = get(kind)
  form = (
    r'(\d+)x(\d+)x(\d+)'
    if chip.is_gpu
    else (r'(\d+%s)(?:@(\d+))?'.replace('%s', (chip.links // 2 - 1) * r'x\d+'))
  )
  example = (
    f'{kind}:1x4x8'
    if chip.is_gpu
    else (
      f'{kind}:4x4 or {kind}:16x16@2'
      if chip.links == 4
      else f'{kind}:2x2x1 or {kind}:4x4x8@2'
    )
  )
  match = re.fullmatch(form, rest)
  what = (
    'SLICESxHOSTSxGPUS'
    if chip.is_gpu
    else (f'{chip.links // 2} sizes and, for several slices, @SLICES')
  )
  if match is None:
    raise UserError(
      f'{name!r} is no topology of {kind}; give {what}, such as {example}.'
    )
  if chip.is_gpu:
    found = Topology(name, chip, tuple(map(int, match.groups())))
  else:
    found = Topology(
      name, chip, tuple(map(int, match[1].split('x'))), int(match[2] or 1)
    )
  most = 256 if chip.is_gpu else 1024
  if not 1 <= found.chips <= most:
    raise UserError(
      f'{name!r} has {found.chips} chips; 1 to {most} are '
      f'allowed: give a shape such as {example}.'
    )
  return found
