"""A running mean of the parameters, to sample and to publish from.

It starts as the parameters themselves, and early steps weigh it little:

  decay_k = min(decay, (1 + k) / (10 + k))

so that after 1,000 steps nothing is left of the initial values even with a
decay of 0.9999 (TensorFlow's ExponentialMovingAverage). NVlabs/Sana keeps none.
"""

import jax
import jax.numpy as jnp

from sana_jax.typing import Array, Int, PyTree


def init(params: PyTree) -> PyTree:
  """A float32 copy: in bfloat16 the mean would not move."""
  return jax.tree.map(lambda p: jnp.array(p, jnp.float32), params)


def update(
  ema: PyTree,
  params: PyTree,
  decay: float,
  step: Int[Array, ''] | int,
) -> PyTree:
  """The mean after one more step.

  Args:
    ema: see `init`.
    params: after the step.
    decay: towards which the weight of the past rises.
    step: how often it has been updated before: 0 in the first call.
  """
  decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, params)
