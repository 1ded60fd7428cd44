"""ReLU linear attention, the definition in plain XLA.

  out_n = relu(q_n) S / (relu(q_n) z + eps),
  S = sum_m relu(k_m)^T v_m,   z = sum_m relu(k_m)

(SANA, arXiv:2410.10629, section 2.2.) The sum over tokens is one small matrix
per head, so the cost is linear in the number of tokens. Without a softmax
there is no 1/sqrt(k).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class State(NamedTuple):
  """Summary of keys and values that queries read, in float32.

  States of disjoint tokens add up, across devices or sequentially.
  """

  values: Float[Array, 'b h k v']
  normaliser: Float[Array, 'b h k']


def relu_linear_attention(
  q: Float[Array, 'b n h k'],
  k: Float[Array, 'b n h k'],
  v: Float[Array, 'b n h k'],
  *,
  eps: float = 1e-15,
  interpret: bool = False,
) -> Float[Array, 'b n h k']:
  """Attends over all tokens; the result has v's dtype.

  `eps` is 1e-15 in diffusers and 1e-8 in the official code. `interpret` is
  ignored: only kernels use it.
  """
  del interpret
  return read(q, state(k, v), eps=eps).astype(v.dtype)


def state(k: Float[Array, 'b n h k'], v: Float[Array, 'b n h v']) -> State:
  """S and z of these tokens."""
  # f32: sums over thousands of tokens, as both references do.
  k, v = jax.nn.relu(k.astype(jnp.float32)), v.astype(jnp.float32)
  return State(jnp.einsum('bnhk,bnhv->bhkv', k, v), jnp.sum(k, axis=1))


def read(
  q: Float[Array, 'b n h k'], state: State, *, eps: float = 1e-15
) -> Float[Array, 'b n h v']:
  """Attention output of each query for a state, in float32."""
  q = jax.nn.relu(q.astype(jnp.float32))
  normaliser = jnp.einsum('bnhk,bhk->bnh', q, state.normaliser)
  out = jnp.einsum('bnhk,bhkv->bnhv', q, state.values)
  return out / (normaliser[..., None] + eps)
