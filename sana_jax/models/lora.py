"""Low-rank adapters (LoRA, DoRA) of dense layers, as pure functions of trees.

    LoRA (arXiv:2106.09685)  y = x W + s (x A) B + bias,  s = alpha / rank
    rsLoRA (2312.03732)      s = alpha / sqrt(rank)
    DoRA (2402.09353)        y = g (x W + s (x A) B) + bias,
                             g = magnitude / ||W + s A B|| for each output

A is `down` [in r] and B is `up` [r out], with the axis of the layers before
them in a stack. As in peft, the norm of DoRA is a constant in the gradient. It
is computed from A^T W and A^T A: no matrix of W's size is made for an adapter.
Factors are trained; `collection` turns them into what `layers.Dense` reads.
"""

from collections.abc import Mapping
import dataclasses
import math
import re

import jax
import jax.numpy as jnp

from sana_jax.errors import UserError
from sana_jax.tree import leaves, unflatten
from sana_jax.typing import Array, Float, Params, PRNGKeyArray, PyTree

KEY = 'adapters'  # Of the factors beside a run's other parameters.
FORM = 'PATTERN=NUMBER with spaces between such'


@dataclasses.dataclass(frozen=True)
class Lora:
  """Adapted layers of a model.

  Attributes:
    ranks, scales: of each adapted layer, by the path of the layer.
    dora: whether layers have a magnitude for each output.
  """

  ranks: Mapping[str, int]
  scales: Mapping[str, float]
  dora: bool = False


def patterns(text: str, key: str) -> tuple[str, ...]:
  """Regular expressions of config.lora.`key`; UserError for an invalid one."""
  out = tuple(text.split())
  for pattern in out:
    try:
      re.compile(pattern)
    except re.error as e:
      raise UserError(
        f'config.lora.{key}: {pattern!r} must be a regular expression ({e}).',
        key=f'lora.{key}',
        value=pattern,
        allowed='regular expressions',
      ) from e
  return out


def numbers(text: str, key: str, whole: bool = False) -> dict[str, float]:
  """The number of each pattern in a text of PATTERN=NUMBER.

  Raises UserError for an invalid entry; a `whole` number is 1 or more.
  """
  out = {}
  for entry in text.split():
    pattern, _, number = entry.rpartition('=')
    try:
      value = int(number) if whole else float(number)
    except ValueError:
      value = 0
    if not pattern or not 0 < value <= 2**12:
      raise UserError(
        f'config.lora.{key}: {entry!r} must be {FORM}, of '
        f'{"whole " * whole}numbers above 0 and up to {2**12}.',
        key=f'lora.{key}',
        value=entry,
        allowed=FORM,
      )
    out[patterns(pattern, key)[0]] = value
  return out


def layers(params: PyTree) -> dict[str, tuple[int, ...]]:
  """Shape of the kernel of each layer that can have an adapter, by path.

  A dense layer's is [in out], a stack's [l in out], that of patches
  [h w in out]. Depthwise convolutions have no matrix to approximate.
  """
  return {
    name.removesuffix('/kernel'): x.shape
    for name, x in leaves(params).items()
    if name.endswith('/kernel') and not name.endswith('depthwise/kernel')
  }


def init(rng: PRNGKeyArray, lora: Lora, params: PyTree) -> Params:
  """Factors of a model with kernels as in `params`, of which shapes are used.

  As peft's default: A is uniform in +-1/sqrt(fan in), and B is zero, so that
  the output is that of the model. Magnitudes are those of `completed`.
  """
  shapes, out = layers(params), {}
  for key, (path, rank) in zip(
    jax.random.split(rng, len(lora.ranks)), sorted(lora.ranks.items())
  ):
    *before, inputs, outputs = shapes[path]
    stack, patch = _axes(shapes[path])
    bound = (inputs * math.prod(patch)) ** -0.5
    out[path] = {
      'down': jax.random.uniform(
        key, (*before, inputs, rank), minval=-bound, maxval=bound
      ),
      'up': jnp.zeros((*stack, rank, outputs)),
    }
    if lora.dora:
      out[path]['magnitude'] = jnp.ones((*stack, outputs))
  return unflatten(out)


def completed(lora: Lora, factors: Params, params: Params) -> Params:
  """The factors with DoRA's magnitudes, ||W + s A B||, of a model's weights."""
  if not lora.dora:
    return factors
  out = _by_layer(factors)
  for path, of in out.items():
    scale = lora.scales[path]
    norm = column_norms(_kernel(params, path), of['down'], of['up'], scale)
    of['magnitude'] = norm.astype(of['magnitude'].dtype)
  return unflatten(out)


def collection(lora: Lora, factors: Params, params: Params) -> Params:
  """The collection `adapters` for the model's `apply`: see layers.Dense."""
  out = {}
  for path, of in _by_layer(factors).items():
    down, up, scale = of['down'], of['up'], lora.scales[path]
    stack = up.shape[:-2]
    out[path] = {'down': down, 'up': up, 'scale': jnp.full(stack, scale)}
    if 'magnitude' in of:
      norm = column_norms(_kernel(params, path), down, up, scale)
      gain = of['magnitude'] / jax.lax.stop_gradient(norm)
      out[path] |= {'up': up * gain[..., None, :], 'gain': gain}
  return unflatten(out)


def column_norms(
  kernel: Float[Array, '*k i o'],
  down: Float[Array, '*k i r'],
  up: Float[Array, '*l r o'],
  scale: float | Float[Array, ''],
) -> Float[Array, '*l o']:
  """||W + s A B|| of each output, in float32; one layer of a stack at a time.

  ||w + s A b||^2 = ||w||^2 + 2 s (A^T w) b + s^2 b^T (A^T A) b
  """

  def norms(layer):
    w, a, b = (x.reshape(-1, x.shape[-1]).astype(jnp.float32) for x in layer)
    cross = jnp.sum((a.T @ w) * b, axis=0)
    square = jnp.sum(((a.T @ a) @ b) * b, axis=0)
    total = jnp.sum(w * w, axis=0) + 2 * scale * cross + scale**2 * square
    return jnp.sqrt(jnp.maximum(total, 0.0))  # Rounding, near zero.

  layer = jax.tree.map(jax.lax.stop_gradient, (kernel, down, up))
  return jax.lax.map(norms, layer) if up.ndim == 3 else norms(layer)


def merged(params: Params, adapters: Params) -> Params:
  """Weights W' = gain (W + s A B) of a `collection`; for exports only."""
  flat = dict(leaves(params))
  for path, of in _by_layer(adapters).items():
    name = f'{path}/kernel'
    flat[name] = merged_kernel(flat[name], of)
  return unflatten(flat)


def merged_kernel(kernel: Array, adapter: Mapping[str, Array]) -> Array:
  """Merged weights of one layer, or stack of layers, in the kernel's dtype."""
  down, up = (adapter[name].astype(jnp.float32) for name in ('down', 'up'))
  scale = jnp.asarray(adapter['scale'], jnp.float32)
  out = kernel.astype(jnp.float32)
  if 'gain' in adapter:
    out = out * adapter['gain'].astype(jnp.float32)[..., None, :]
  return (out + down @ (scale[..., None, None] * up)).astype(kernel.dtype)


def _axes(shape):
  """Axes of the stack and of the patch of a kernel's shape, as shapes."""
  *before, _, _ = shape
  return (tuple(before), ()) if len(before) < 2 else ((), tuple(before))


def _kernel(params, path):
  for key in path.split('/'):
    params = params[key]
  return params['kernel']


def _by_layer(factors):
  """{path of a layer: its own leaves}."""
  out = {}
  for name, x in leaves(factors).items():
    path, _, leaf = name.rpartition('/')
    out.setdefault(path, {})[leaf] = x
  return out
