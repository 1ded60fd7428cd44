"""Ahead-of-time compilation for devices that are not attached.

`v5e:2x2`, `v5p:2x2x1`, `v6e:16x16@2` (two slices) or `tpu7x:2x2x1` are TPU
slices, compiled by libtpu; `h200:1x1x8` are slices x hosts x GPUs, compiled by
jax[cuda13].
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import importlib.util
import math
import os
import pathlib
import re
import warnings

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from sana_jax import extras, kernels
from sana_jax.analysis import chips
from sana_jax.errors import is_out_of_memory, UserError
from sana_jax.printable import counted
from sana_jax.sharding.mesh import make_mesh

# Allows concurrent compilers; no metadata server describes the chips.
_LIBTPU = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}
_COMPILERS = {'tpu': ('libtpu', 'tpu'), 'gpu': ('jax_cuda13_plugin', 'gpu')}
# XLA options: without a GPU, autotuning is not possible.
OPTIONS = {
  'gpu': {'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False}
}
# One device per chip, as on real hosts; libtpu's default for a v4 is two.
_MEGACORE = {'v4': {'chip_config_name': 'megacore'}}


def devices(name: str) -> list:
  """Descriptions of all devices of a topology.

  Raises UserError if the compiler does not support it.
  """
  found = check(name)
  for key, value in _LIBTPU.items():
    os.environ.setdefault(key, value)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      return list(_describe(found).devices)
  except Exception as e:  # jaxlib's own error types are not public.
    reason = (str(e).strip().splitlines() or [''])[0]
    raise UserError(
      f'{name!r} is a topology that the compiler does not take ({reason}).',
      key='topology',
      value=name,
    ) from e


def check(name: str) -> chips.Topology:
  """Parses a name; raises UserError if it or its compiler is unavailable."""
  found = chips.parse(name)
  _check_compiler(*_COMPILERS[platform(name)])
  return found


def platform(name: str) -> str:
  """Platform of a topology's name: 'tpu' or 'gpu'."""
  return 'gpu' if name.partition(':')[0] in chips.GPUS else 'tpu'


def _check_compiler(package, extra):
  if importlib.util.find_spec(package) is None:
    raise extras.missing(package, 'Compiling for these', extra)


def _describe(found):
  kind = found.chip.name
  shape = 'x'.join(map(str, found.shape))
  if not found.chip.is_gpu:
    more = _MEGACORE.get(kind, {})
    if found.chips == 1:  # libtpu's default is a host of four.
      more = more | {'chips_per_host_bounds': (1, 1, 1)}
    if found.slices > 1:
      more = more | {'num_slices': found.slices}
    return topologies.get_topology_desc(f'{kind}:{shape}', 'tpu', **more)
  target = pathlib.Path(__file__).with_name(f'{kind}.txtpb').read_text()
  return topologies.get_topology_desc(
    '', 'cuda', target_config=target, topology=shape
  )


def mesh(name: str, shape: Mapping[str, int]) -> Mesh:
  """Mesh of `shape` on the first devices of a topology."""
  there = devices(name)
  if -1 in shape.values():
    return make_mesh(shape, there)
  needed = math.prod(shape.values())
  if needed > len(there):
    raise UserError(
      f'{name} has {counted(len(there), "device")}; the mesh needs {needed}.',
      key='mesh',
      value=needed,
      allowed=f'at most {len(there)}',
    )
  return make_mesh(shape, there[:needed])


class TooLargeError(UserError):
  """A program needs more memory than the device has.

  Attributes:
    report: the compiler's message.
  """

  def __init__(self, report: str, advice: str = ''):
    needed = re.search(r'Used ([\d.]+\w) of ([\d.]+\w) hbm', report)
    size = f': it needs {needed[1]} of {needed[2]}' if needed else ''
    hint = f'; {advice}' if advice else ''
    super().__init__(f'It does not fit{size}{hint}.')
    self.report = report


def compile_for(
  platform: str,
  mesh: Mesh,
  lower: Callable[[], jax.stages.Lowered],
  advice: str = '',
  **options: str,
) -> jax.stages.Compiled:
  """Compiles the result of `lower` for a mesh of unattached devices.

  Args:
    platform: 'tpu' or 'gpu'.
    advice: hint for a program that does not fit.
    options: compiler options.

  Raises TooLargeError if the program does not fit.
  """
  with tracing_for(platform, mesh):
    lowered = lower()
    try:
      return lowered.compile(OPTIONS.get(platform, {}) | options or None)
    except jax.errors.JaxRuntimeError as e:
      if not is_out_of_memory(str(e)):
        raise
      raise TooLargeError(str(e), advice) from e


@contextlib.contextmanager
def tracing_for(platform: str, mesh: Mesh) -> Iterator[None]:
  """Context in which programs are traced for unattached devices."""
  # With set_mesh, eager computation would target these devices.
  context = jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
  with kernels.platform(platform), context:
    yield
