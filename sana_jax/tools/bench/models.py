"""Published models with random weights, equal for sana_jax and diffusers.

A tensor's values depend only on its name, so that two processes have the same
weights without sharing a file. Their scale is 1/sqrt(fan in).
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
  """Values of a tensor by its name in diffusers or transformers."""
  return _rows(name, shape, np.dtype(dtype), 0, shape[0] if shape else 1)


def _rows(name, shape, dtype, start, stop):
  """Rows of the leading axis, or a scalar."""
  shape, size = (stop - start, *shape[1:])[: len(shape)], math.prod(shape[1:])
  if not np.issubdtype(dtype, np.floating):
    return np.zeros(shape, dtype)
  if name.endswith('running_var') or (
    len(shape) == 1 and name.endswith('weight')
  ):
    return np.ones(shape, dtype)
  # A million numbers, reused from an offset: drawing all takes minutes.
  first = (zlib.crc32(name.encode()) + start * size) % _BLOCK.size
  values = np.resize(np.roll(_BLOCK, -first), shape)
  values *= np.float32(size**-0.5 if len(shape) > 1 else 0.1)
  return values.astype(dtype, copy=False)


def load(part: str, config: Mapping[str, Any], dtype: DType) -> Model:
  """A part of a model folder, as in the pipeline."""
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
  """The part with weights drawn on the device.

  Nothing is copied; the values differ from diffusers'.
  """
  module, shapes = described(part, config, dtype)
  block = jax.random.normal(jax.random.key(0), _BLOCK.shape)

  @jax.jit
  def draw(block):
    values = lambda path, x: _drawn(block, path, x.shape, module.dtype)
    return jax.tree.map_with_path(values, shapes)

  return Model(module, draw(block))


def described(part: str, config: Mapping[str, Any], dtype: DType) -> Model:
  """The part with shapes in place of weights."""
  kind = kinds.PARTS[part]
  module = kind.module(config, jnp.dtype(dtype))
  shapes = kind.shapes(module)
  if part == 'vae':  # Sampling uses only the decoder.
    shapes = {key: {'decoder': tree['decoder']} for key, tree in shapes.items()}
  return Model(module, shapes)


def _drawn(block, path, shape, dtype):
  """Values of scale 1/sqrt(fan in); norm scales are 1."""
  name = path[-1].key
  if name in ('scale', 'var'):
    return jnp.ones(shape, dtype)
  # Apart from stacked layers, a kernel's last axis is its outputs.
  fan_in = math.prod(shape[-4 if 'conv' in name else -2 : -1]) or 1
  values = jnp.resize(block, math.prod(shape)).reshape(shape)
  return (values * fan_in**-0.5).astype(dtype)


def _lazy(name, shape, integer):
  dtype = np.dtype(np.int64 if integer else np.float32)
  return Stored(shape, dtype, functools.partial(_rows, name, shape, dtype))
