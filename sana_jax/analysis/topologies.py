"""Devices that are not here: XLA compiles for them all the same.

`v5e:2x2`, `v5p:2x2x1`, `v6e:16x16@2` (two slices) or `tpu7x:2x2x1` are slices
of TPUs, whose compiler comes with libtpu; `h200:1x1x8` are slices x hosts x
GPUs, whose compiler comes with jax[cuda13].
"""

from collections.abc import Callable, Mapping
import importlib.util
import math
import os
import pathlib
import re
import warnings

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from sana_jax import kernels
from sana_jax.analysis import chips
from sana_jax.errors import is_out_of_memory, UserError
from sana_jax.sharding.mesh import make_mesh

# Several compilers at a time are fine, and there is no host to ask about chips.
_LIBTPU = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}
_COMPILERS = {'tpu': ('libtpu', 'tpu'), 'gpu': ('jax_cuda13_plugin', 'gpu')}
# For XLA's compilers: there is no GPU to try variants on.
OPTIONS = {
  'gpu': {'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False}
}
# One device a chip, as on real hosts; libtpu describes a v4 as two otherwise.
_MEGACORE = {'v4': {'chip_config_name': 'megacore'}}


def devices(name: str) -> list:
  """Descriptions of all devices of a topology.

  Raises UserError for a name that the compiler does not know.
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
      f'{name!r} is a topology that the compiler does not take ({reason}).'
    ) from e


def check(name: str) -> chips.Topology:
  """What a name means; UserError for a bad one, or without its compiler."""
  found = chips.parse(name)
  _check_compiler(*_COMPILERS[platform(name)])
  return found


def platform(name: str) -> str:
  """'tpu' or 'gpu', of a topology's name."""
  return 'gpu' if name.partition(':')[0] in chips.GPUS else 'tpu'


def _check_compiler(package, extra):
  if importlib.util.find_spec(package) is None:
    raise UserError(
      f'Compiling for these needs the package {package}; install '
      f"it with pip install 'sana_jax[{extra}]'."
    )


def _describe(found):
  kind = found.chip.name
  shape = 'x'.join(map(str, found.shape))
  if not found.chip.is_gpu:
    more = _MEGACORE.get(kind, {})
    if found.slices > 1:
      more = more | {'num_slices': found.slices}
    return topologies.get_topology_desc(f'{kind}:{shape}', 'tpu', **more)
  target = pathlib.Path(__file__).with_name(f'{kind}.txtpb').read_text()
  return topologies.get_topology_desc(
    '', 'cuda', target_config=target, topology=shape
  )


def mesh(name: str, shape: Mapping[str, int]) -> Mesh:
  """A mesh of as many of a topology's devices as `shape` asks for."""
  there = devices(name)
  if -1 in shape.values():
    return make_mesh(shape, there)
  needed = math.prod(shape.values())
  if needed > len(there):
    raise UserError(
      f'{name} has {len(there)} devices; the mesh asks for {needed}.'
    )
  return make_mesh(shape, there[:needed])


class TooLargeError(UserError):
  """A program needs more memory than the device has.

  Attributes:
    said: all that the compiler says of it.
  """

  def __init__(self, said: str, advice: str = ''):
    needed = re.search(r'Used ([\d.]+\w) of ([\d.]+\w) hbm', said)
    size = f': it needs {needed[1]} of {needed[2]}' if needed else ''
    hint = f'; {advice}' if advice else ''
    super().__init__(f'It does not fit{size}{hint}.')
    self.said = said


def compile_for(
  platform: str,
  mesh: Mesh,
  lower: Callable[[], jax.stages.Lowered],
  advice: str = '',
  **options: str,
) -> jax.stages.Compiled:
  """Compiles what `lower` gives, for a mesh of devices that are not here.

  Args:
    platform: of the mesh's devices, 'tpu' or 'gpu'.
    advice: for who asks for too much.
    options: of the compiler.

  Raises TooLargeError where it does not fit.
  """
  # With set_mesh, what `lower` computes at once would be for these devices.
  context = jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
  with kernels.platform(platform), context:
    lowered = lower()
    try:
      return lowered.compile(OPTIONS.get(platform, {}) | options or None)
    except jax.errors.JaxRuntimeError as e:
      if not is_out_of_memory(str(e)):
        raise
      raise TooLargeError(str(e), advice) from e
