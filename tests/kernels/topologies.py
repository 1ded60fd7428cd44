"""Chips that are not here: the TPU compiler runs on any machine."""

import math

import jax
from jax.experimental import topologies
import numpy as np


def tpu_mesh(name: str, shape: dict[str, int]) -> jax.sharding.Mesh:
  """A mesh of the first chips of a topology such as 'v5e:2x2' (axes Auto)."""
  devices = topologies.get_topology_desc(
    platform='tpu', topology_name=name).devices
  size = tuple(shape.values())
  return jax.sharding.Mesh(
    np.array(devices[:math.prod(size)]).reshape(size), tuple(shape),
    axis_types=(jax.sharding.AxisType.Auto,) * len(size))
