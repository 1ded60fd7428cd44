"""ReLU linear attention in plain XLA, a chunk of tokens at a time.

Suits long sequences on devices without a kernel: q, k and v are never
converted to float32 in full, and the backward pass keeps no array that long.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sana_jax.kernels import tuning
from sana_jax.kernels.linear_attention import vjp, xla
from sana_jax.kernels.linear_attention.xla import State

CANDIDATES = {'chunk': (256, 512, 1024, 2048, 4096)}


def relu_linear_attention(
  q: Float[Array, 'b n h k'],
  k: Float[Array, 'b n h k'],
  v: Float[Array, 'b n h k'],
  *,
  eps: float = 1e-15,
  interpret: bool = False,
) -> Float[Array, 'b n h k']:
  """Attends over all tokens; the result has v's dtype."""
  del interpret  # Unused: there is no kernel.
  return vjp.attend(_PARTS, eps, q, k, v)


def _state(k, v):
  zero = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(xla.state, k, v)
  )
  return _over(
    lambda total, k, v: (jax.tree.map(jnp.add, total, xla.state(k, v)), ()),
    zero,
    k,
    v,
  )[0]


def _read(q, state, eps):
  def of(_, q):
    return (), xla.read(q, state, eps=eps).astype(q.dtype)

  return _over(of, (), q)[1]


def _read_backward(q, state, dout, eps):
  def of(total, q, dout):
    _, back = jax.vjp(functools.partial(xla.read, eps=eps), q, state)
    dq, dstate = back(dout.astype(jnp.float32))
    return jax.tree.map(jnp.add, total, dstate), dq

  zero = jax.tree.map(jnp.zeros_like, state)
  dstate, dq = _over(of, zero, q, dout, backward=True)
  return dq, dstate


def _state_backward(k, v, dstate: State):
  def of(_, k, v):
    return (), jax.vjp(xla.state, k, v)[1](dstate)

  return _over(of, (), k, v, backward=True)[1]


_PARTS = vjp.Parts(_state, _read, _read_backward, _state_backward)


def _over(f, carry, *arrays, backward=False):
  """Scans f(carry, *chunks) over the token axis: (last carry, joined outputs).

  Tokens are padded with zeros, which add nothing to a state.
  """
  b, n = arrays[0].shape[:2]
  chosen = tuning.choose(
    'relu_linear_attention',
    'xla_chunked',
    backward,
    arrays[0].shape,
    arrays[0].dtype,
    chunk=1024,
  )
  size = min(chosen['chunk'], n)
  count = -(-n // size)

  def cut(x):
    x = jnp.pad(x, ((0, 0), (0, count * size - n), (0, 0), (0, 0)))
    return jnp.moveaxis(x.reshape(b, count, size, *x.shape[2:]), 1, 0)

  def join(y):
    y = jnp.moveaxis(y, 0, 1)
    return y.reshape(b, count * size, *y.shape[3:])[:, :n]

  carry, out = jax.lax.scan(
    lambda carry, chunks: f(carry, *chunks),
    carry,
    tuple(cut(x) for x in arrays),
  )
  return carry, jax.tree.map(join, out)
