"""ReLU linear attention, the definition in plain XLA.

  out_n = relu(q_n) S / (relu(q_n) z + eps),
  S = sum_m relu(k_m)^T v_m,   z = sum_m relu(k_m)

(SANA, arXiv:2410.10629, section 2.2.) The sum over tokens is one small matrix
per head, so the cost is linear in the number of tokens. Without a softmax
there is no 1/sqrt(k).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def relu_linear_attention(
  q: Float[Array, 'b n h k'],
  k: Float[Array, 'b n h k'],
  v: Float[Array, 'b n h k'],
  *,
  eps: float = 1e-15,
) -> Float[Array, 'b n h k']:
  """Attends over all tokens; the result has v's dtype.

  `eps` is 1e-15 in diffusers and 1e-8 in the official code.
  """
  dtype = v.dtype
  # f32: sums over thousands of tokens, as both references do.
  q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
  q, k = jax.nn.relu(q), jax.nn.relu(k)
  state = jnp.einsum('bnhk,bnhv->bhkv', k, v)
  normaliser = jnp.einsum('bnhk,bhk->bnh', q, jnp.sum(k, axis=1))
  out = jnp.einsum('bnhk,bhkv->bnhv', q, state)
  return (out / (normaliser[..., None] + eps)).astype(dtype)
