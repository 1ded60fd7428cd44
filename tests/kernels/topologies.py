"""Chips that are not here: the TPU compiler runs on any machine."""

from collections.abc import Iterator
import contextlib
import math
import os

# A compiler holds no chip: two processes may have one each.
os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
# Do not ask the cloud for the machine's chips.
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')

import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.experimental.compilation_cache import (  # noqa: E402
  compilation_cache,
)
import numpy as np  # noqa: E402


def tpu_mesh(name: str, shape: dict[str, int]) -> jax.sharding.Mesh:
  """A mesh of the first chips of a topology such as 'v5e:2x2' (axes Auto)."""
  devices = topologies.get_topology_desc(
    platform='tpu', topology_name=name).devices
  size = tuple(shape.values())
  return jax.sharding.Mesh(
    np.array(devices[:math.prod(size)]).reshape(size), tuple(shape),
    axis_types=(jax.sharding.AxisType.Auto,) * len(size))


@contextlib.contextmanager
def uncached() -> Iterator[None]:
  """Compiles anew: what is for chips that are not here cannot be read back."""
  _enable_cache(False)
  try:
    yield
  finally:
    _enable_cache(True)


def _enable_cache(enabled):
  jax.config.update('jax_enable_compilation_cache', enabled)
  compilation_cache.reset_cache()  # It asks for the setting only once.
