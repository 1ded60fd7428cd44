"""Measured cases: calls of ops by models, with their FLOPs and bytes.

Shapes are recorded by tracing the models.
"""

from collections.abc import Sequence
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax import kernels
from sana_jax.errors import UserError
from sana_jax.kernels import OPS
from sana_jax.text import encode
from sana_jax.weights import kinds, zoo


@dataclasses.dataclass(frozen=True)
class Case:
  """A call of an op.

  Attributes:
    shape: shape of the first argument, [b n h d], [b y x 2c] or [b y x c].
    where: models and sizes that make this call.
  """

  op: str
  shape: Sequence[int]
  dtype: str
  where: str = ''

  def __post_init__(self):
    object.__setattr__(self, 'shape', tuple(self.shape))  # JSON has lists.

  @property
  def size(self) -> int:
    """Elements of the result."""
    numbers = int(np.prod(self.shape))
    return numbers // 2 if self.op == 'glumb_conv' else numbers

  def bytes(self, training: bool) -> int:
    """Least bytes read and written, without weights and states."""
    # q, k, v and out; then dout, q, k, v and their gradients. x is twice as
    # wide as the gate's result. A residual's gradient is dout.
    forward, backward = {
      'relu_linear_attention': (4, 7),
      'glumb_conv': (3, 5),
      'conv3x3_silu': (2, 3),
      'conv3x3_norm': (3, 3),
    }[self.op]
    arrays = forward + backward * training
    return arrays * self.size * jnp.dtype(self.dtype).itemsize

  def flops(self, training: bool) -> int:
    """FLOPs of matmuls and taps; a multiply-add is 2."""
    if self.op == 'relu_linear_attention':
      return (12 if training else 4) * self.size * self.shape[-1]
    if self.op == 'glumb_conv':
      return (144 if training else 36) * self.size
    return (54 if training else 18) * self.size * self.shape[-1]

  def arguments(self, seed: int = 0) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """(inputs in the models' layout, gradient of the result)."""
    shapes = self.flat_shapes()
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    draw = lambda key, shape: jax.random.normal(key, shape, self.dtype)
    *inputs, dout = map(draw, keys, shapes)
    if self.op == 'glumb_conv':
      inputs[1] /= 3
    elif self.op != 'relu_linear_attention':
      inputs[1] /= 3 * self.shape[-1] ** 0.5
    return tuple(inputs), dout

  def flat_shapes(self) -> list[tuple[int, ...]]:
    """Shapes of the inputs and the result, with heads flattened: [b n h*d]."""
    if self.op == 'relu_linear_attention':
      b, n, h, d = self.shape
      return [(b, n, h * d)] * 4
    *picture, c = self.shape
    if self.op == 'glumb_conv':
      return [self.shape, (3, 3, c), (c,), (*picture, c // 2)]
    rest = [(c,)] if self.op == 'conv3x3_silu' else [(c,), (c,), self.shape]
    return [self.shape, (3, 3, c, c), *rest, self.shape]

  def call(self, *inputs: jax.Array, implementation: str) -> jax.Array:
    """The op on flat inputs."""
    op = OPS[self.op]
    if self.op != 'relu_linear_attention':
      return op(*inputs, implementation=implementation)
    heads = (x.reshape(self.shape) for x in inputs)
    out = op(*heads, implementation=implementation)
    return out.reshape(inputs[0].shape)


@dataclasses.dataclass(frozen=True)
class Row(Case):
  """A backend at a case.

  Attributes:
    problem: why it did not run or is wrong; '' otherwise.
  """

  training: bool = False
  backend: str = 'xla'
  problem: str = ''


def of_models(
  names: list[str], sizes: list[int], batch: int | None, dtype: str
) -> list[Case]:
  """Distinct calls of these models' transformers and decoders.

  `batch` defaults to `usual_batch`.
  """
  found: dict[tuple, dict[str, None]] = {}  # Ordered sets of labels.
  for name, size in itertools.product(names, sizes):
    for call in calls(name, size, batch or usual_batch(size), dtype):
      where = found.setdefault((call.op, call.shapes[0], call.dtype), {})
      where[f'{name} {size} px'] = None
  return [Case(*key, ', '.join(where)) for key, where in found.items()]


def usual_batch(size: int) -> int:
  """16 images of 1024 px, or as many pixels, but at most 16 images."""
  return max(1, min(16, 16 * 1024**2 // size**2))


def calls(name: str, size: int, batch: int, dtype: str) -> list:
  """Calls (kernels.dispatch.Call) in a forward pass of a zoo model.

  Raises UserError if there are none.
  """
  entry = zoo.get(name)
  part = 'transformer' if entry.kind == 'pipeline' else entry.part
  if part not in _TRACED:
    raise UserError(
      f'{name} is no transformer and no autoencoder; see sana-jax zoo.',
      key='--models',
      value=name,
      allowed=_TRACED,
    )
  module = entry.module(part, jnp.dtype(dtype))
  shapes = kinds.PARTS[part].shapes(module)
  run = lambda weights: _TRACED[part](
    module, weights, size, batch, module.dtype
  )
  with kernels.recorded() as found:
    jax.eval_shape(run, shapes)
  return found


def _transformer(module, variables, size, batch, dtype):
  latents = size // 32  # Compression of published autoencoders.
  text = jnp.zeros((batch, encode.LENGTH, module.caption_channels), dtype)
  guidance = jnp.ones(batch) if module.guidance_embeds else None
  return module.apply(
    variables,
    jnp.zeros((batch, latents, latents, module.in_channels), dtype),
    jnp.zeros(batch),
    text,
    jnp.ones((batch, encode.LENGTH), bool),
    guidance,
  )


def _decoder(module, variables, size, batch, dtype):
  side = max(1, size // module.spec.side)
  return module.apply(
    variables,
    jnp.zeros((batch, side, side, module.spec.channels), dtype),
    method='decode',
  )


_TRACED = {'transformer': _transformer, 'vae': _decoder}
