"""Checksums of arrays, taken on the devices that hold them."""

import jax
import jax.numpy as jnp

from sana_jax.typing import Array, PyTree


@jax.jit
def checksums(state: PyTree) -> Array:
  """A checksum for each leaf, independent of its sharding."""

  def leaf_sum(x):
    if x.dtype == bool:
      x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * x.itemsize}'))
    weight = jnp.uint32(0)
    for axis, size in enumerate(x.shape):  # The index in row-major order.
      weight = weight * jnp.uint32(size) + jax.lax.broadcasted_iota(
        jnp.uint32, x.shape, axis
      )
    return jnp.sum(bits.astype(jnp.uint32) * (2 * weight + 1), dtype=jnp.uint32)

  return jnp.stack([leaf_sum(x) for x in jax.tree.leaves(state)])
