"""Stochastic rounding of bfloat16 parameters.

An update of 1e-5 of a parameter's size is lost in bfloat16, whose neighbours
are 4e-3 to 8e-3 apart. Stochastic rounding keeps it on average: for x between
the neighbours a < b,

  round(x) = b with probability (x - a) / (b - a), else a.

A bfloat16 is the upper half of a float32, so this adds 16 random bits to the
lower half before truncation.
"""

import jax
import jax.numpy as jnp
import optax

from sana_jax.typing import Array, Float, Params, PRNGKeyArray

_OWN_STREAM = (
  0x726F756E  # Separates these random numbers from others of a step's key.
)


def stochastic_round(
  x: Float[Array, '*shape'], rng: PRNGKeyArray
) -> Float[Array, '*shape']:
  """Bfloat16 whose mean over keys is the float32 x.

  Exact if x is representable, including infinities and NaN. Finite values stay
  finite: beyond the largest bfloat16 they become that one.
  """
  noise = jax.random.bits(rng, x.shape, jnp.uint16).astype(jnp.uint32)
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
  rounded = jax.lax.bitcast_convert_type(
    (bits >> 16).astype(jnp.uint16), jnp.bfloat16
  )
  # Half of them would be rounded to infinity.
  largest = jnp.finfo(jnp.bfloat16).max
  rounded = jnp.where(
    jnp.isinf(rounded), jnp.copysign(largest, rounded), rounded
  )
  # Noise could turn the bits of a NaN into another value.
  return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def apply_updates(
  params: Params, updates: optax.Updates, rng: PRNGKeyArray
) -> Params:
  """params + updates, rounded stochastically for bfloat16 parameters.

  Args:
    params: float32 or bfloat16.
    updates: float32.
    rng: key of the step; other random numbers may use it too.
  """
  leaves, structure = jax.tree.flatten(params)
  rng = jax.random.fold_in(rng, _OWN_STREAM)

  def moved(index, p, update):
    total = p.astype(jnp.float32) + update
    if p.dtype != jnp.bfloat16:
      return total.astype(p.dtype)
    return stochastic_round(total, jax.random.fold_in(rng, index))

  return structure.unflatten(
    moved(i, p, u)
    for i, (p, u) in enumerate(zip(leaves, structure.flatten_up_to(updates)))
  )
