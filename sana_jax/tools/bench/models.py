"""Published models with random weights: the same for us and for diffusers.

A tensor's values depend on its name alone, so that two processes have the same
weights without a file between them. They are of the usual size: 1/sqrt(fan in).
"""

from collections.abc import Mapping
import functools
import math
from typing import Any
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.typing import DType
from sana_jax.weights import folder, kinds, table
from sana_jax.weights.folder import Model
from sana_jax.weights.tensors import Stored

_BLOCK = np.random.default_rng(0).standard_normal(2**20 + 7, np.float32)


def tensor(name: str, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
  """Values of a tensor as its name is in diffusers' or transformers' layout."""
  return _rows(name, shape, np.dtype(dtype), 0, shape[0] if shape else 1)


def _rows(name, shape, dtype, start, stop):
  """Rows of the leading axis; of a scalar, all of it."""
  shape, size = (stop - start, *shape[1:])[: len(shape)], math.prod(shape[1:])
  if not np.issubdtype(dtype, np.floating):
    return np.zeros(shape, dtype)
  if name.endswith('running_var') or (
    len(shape) == 1 and name.endswith('weight')
  ):
    return np.ones(shape, dtype)
  # The same million numbers, from another place on: drawing takes minutes.
  first = (zlib.crc32(name.encode()) + start * size) % _BLOCK.size
  values = np.resize(np.roll(_BLOCK, -first), shape)
  values *= np.float32(size**-0.5 if len(shape) > 1 else 0.1)
  return values.astype(dtype, copy=False)


def ours(part: str, config: Mapping[str, Any], dtype: DType) -> Model:
  """A part of a folder, as the pipeline has it."""
  kind = kinds.PARTS[part]
  module = kind.module(config, jnp.dtype(dtype))
  tensors = {
    name: _lazy(name, shape, integer=name.endswith('tracked'))
    for name, shape in folder.file_shapes(part, config).items()
  }
  variables = table.load(
    kind.rules(module),
    kind.prepare(tensors),
    kind.shapes(module),
    module.dtype,
    only='decoder' if part == 'vae' else '',
  )
  return Model(module, variables)


def drawn(part: str, config: Mapping[str, Any], dtype: DType) -> Model:
  """The same part with weights that are drawn on the device.

  They take no time to copy, and are not those of diffusers' side.
  """
  module, shapes = described(part, config, dtype)
  block = jax.random.normal(jax.random.key(0), _BLOCK.shape)

  @jax.jit
  def draw(block):
    values = lambda path, x: _drawn(block, path, x.shape, module.dtype)
    return jax.tree.map_with_path(values, shapes)

  return Model(module, draw(block))


def described(part: str, config: Mapping[str, Any], dtype: DType) -> Model:
  """The same part with shapes in place of weights."""
  kind = kinds.PARTS[part]
  module = kind.module(config, jnp.dtype(dtype))
  shapes = kind.shapes(module)
  if part == 'vae':  # Only the decoder is sampled with.
    shapes = {key: {'decoder': tree['decoder']} for key, tree in shapes.items()}
  return Model(module, shapes)


def _drawn(block, path, shape, dtype):
  """Values of the usual size; scales are 1."""
  name = path[-1].key
  if name in ('scale', 'var'):
    return jnp.ones(shape, dtype)
  # Without layers that are stacked, a kernel's last axis is its outputs.
  fan_in = math.prod(shape[-4 if 'conv' in name else -2 : -1]) or 1
  values = jnp.resize(block, math.prod(shape)).reshape(shape)
  return (values * fan_in**-0.5).astype(dtype)


def _lazy(name, shape, integer):
  dtype = np.dtype(np.int64 if integer else np.float32)
  return Stored(shape, dtype, functools.partial(_rows, name, shape, dtype))
