"""The collection `adapters` of a model, from any number of adapters.

Adapters with weights add up: their factors are concatenated along the rank,

    x [A1 A2] [w1 s1 B1; w2 s2 B2] = w1 s1 (x A1) B1 + w2 s2 (x A2) B2

so that their cost is that of one adapter. As in peft, a DoRA multiplies what
the adapters before it made, and its norm is that of the base and itself. A
weight of 0 turns an adapter off, also a DoRA, whose gain peft keeps. It is left
out, or kept as zeros, so that the program is the same for all weights.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.models import lora
from sana_jax.tree import leaves, unflatten
from sana_jax.typing import Array, Params
from sana_jax.weights.lora import names
from sana_jax.weights.lora.lows import Lows, up_transform

# One number, or one for each module by its name ('transformer_blocks.0'), of
# which the longest counts; 1 for the others.
Weight = float | Mapping[str, float]


class Weighted(NamedTuple):
  """An adapter with its weight."""

  updates: Lows
  weight: Weight = 1.0


class _Stack(NamedTuple):
  """Update of a layer, or stack of layers: x down up, and DoRA's magnitude.

  `is_dora` has a truth value for each layer of the stack.
  """

  down: np.ndarray
  up: np.ndarray
  magnitude: np.ndarray | None
  is_dora: np.ndarray


def collection(
  module: nn.Module,
  params: Params,
  adapters: Sequence[Weighted],
  keep_off: bool = False,
) -> Params:
  """The adapters of a transformer's layers, in float32.

  Those with a weight of 0 are left out ({} if all are off), or zeros with
  `keep_off`: shapes then depend on the adapters only, not on their weights.
  """
  flat, out = leaves(params), {}
  for path, layer in names.layers(module).items():
    stacks = [_stacked(layer, *adapter, keep_off) for adapter in adapters]
    stacks = [stack for stack in stacks if stack is not None]
    if stacks:
      out[path] = _combined(flat[f'{path}/kernel'], stacks)
  return unflatten(out)


def weight_of(weight: Weight, layer: str) -> float:
  """The weight of a layer."""
  if not isinstance(weight, Mapping):
    return float(weight)
  found = [name for name in weight if f'{layer}.'.startswith(f'{name}.')]
  return float(weight[max(found, key=len)]) if found else 1.0


def _stacked(layer, updates, weight, keep_off) -> _Stack | None:
  """Updates of the layers of a stack, padded to the same rank."""
  keys = [layer.key.format(i=i) for i in range(layer.depth or 1)]
  weights = [weight_of(weight, key) for key in keys]
  lows = [
    updates[key] if key in updates and (on or keep_off) else None
    for key, on in zip(keys, weights)
  ]
  if not any(lows):
    return None
  first = next(low for low in lows if low)
  most = max(low.rank for low in lows if low)
  out, down, up, magnitude, is_dora = first.up.shape[0], [], [], [], []
  for low, factor in zip(lows, weights):
    low = low or first._replace(scale=0.0, magnitude=None)
    down.append(_padded(layer.transform.load(low.down), -1, most))
    b = up_transform(layer).load(low.up) * np.float32(low.scale * factor)
    up.append(_padded(b, -2, most))
    magnitude.append(np.ones(out) if low.magnitude is None else low.magnitude)
    is_dora.append(np.bool_(low.magnitude is not None and factor != 0))
  join = (lambda xs: xs[0]) if layer.depth is None else np.stack
  has_gain = any(low and low.magnitude is not None for low in lows)
  return _Stack(
    join(down),
    join(up),
    np.float32(join(magnitude)) if has_gain else None,
    join(is_dora),
  )


def _padded(x, axis, size):
  widths = [(0, 0)] * x.ndim
  widths[axis] = 0, size - x.shape[axis]
  return np.pad(x, widths)


def _combined(kernel: Array, stacks: Sequence[_Stack]) -> dict[str, Array]:
  gain, ups = None, []
  for stack in stacks:
    up = jnp.asarray(stack.up)
    if stack.magnitude is not None:
      norms = lora.column_norms(kernel, jnp.asarray(stack.down), up, 1.0)
      g = jnp.where(stack.is_dora[..., None], stack.magnitude / norms, 1.0)
      ups, up = [x * g[..., None, :] for x in ups], up * g[..., None, :]
      gain = g if gain is None else gain * g
    ups.append(up)
  out = {
    'down': jnp.concatenate([jnp.asarray(s.down) for s in stacks], axis=-1),
    'up': jnp.concatenate(ups, axis=-2),
    'scale': jnp.ones(stacks[0].up.shape[:-2]),
  }
  return out if gain is None else out | {'gain': gain}


def placed(adapters: Params, like: Array) -> Params:
  """The adapters in the dtype of a parameter, on all of its devices."""
  sharding = like.sharding
  if isinstance(sharding, jax.sharding.NamedSharding):
    sharding = jax.sharding.NamedSharding(sharding.mesh, jax.P())
  return jax.tree.map(
    lambda x: jax.device_put(x.astype(like.dtype), sharding), adapters
  )
