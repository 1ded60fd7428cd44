"""Exponential moving average (EMA) of the parameters, for sampling and export.

It starts as the parameters themselves, with a small decay in early steps:

  decay_k = min(decay, (1 + k) / (10 + k))

so that after 1,000 steps nothing is left of the initial values even with a
decay of 0.9999 (TensorFlow's ExponentialMovingAverage). NVlabs/Sana has no EMA.
"""

import jax
import jax.numpy as jnp

from sana_jax.typing import Array, Int, PyTree


def init(params: PyTree) -> PyTree:
  """A float32 copy, as small updates would be lost in bfloat16."""
  return jax.tree.map(lambda p: jnp.array(p, jnp.float32), params)


def update(
  ema: PyTree,
  params: PyTree,
  decay: float,
  step: Int[Array, ''] | int,
) -> PyTree:
  """The EMA after one more step.

  Args:
    ema: see `init`.
    params: the parameters after the step.
    decay: limit of the decay.
    step: number of previous updates; 0 in the first call.
  """
  decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, params)
