"""Linear attention with its gradient on any mesh, from a backend's four parts.

  forward    state = sum over tokens of (k, v);     out = read(q, state)
  backward   dq, dstate = read_backward(q, state, dout)
             dk, dv = state_backward(k, v, dstate)

Only the state, some [b h k v+1] numbers, is kept besides q, k and v. Where
tokens are sharded over devices, states and their gradients are summed over
them; there is no other communication. A backend chooses the arrays of a state;
they must add up and begin with the batch and (groups of) heads.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
from jax.sharding import PartitionSpec as P

from sana_jax.kernels import sharded
from sana_jax.kernels.linear_attention.xla import State


class Parts(NamedTuple):
  """Functions that a backend provides, for one device; q, k, v are [b n h d].

  Attributes:
    state: (k, v) -> State, in float32.
    read: (q, state, eps) -> out, in q's dtype.
    read_backward: (q, state, dout, eps) -> (dq, State of gradients).
    state_backward: (k, v, State of gradients) -> (dk, dv).
  """

  state: Callable
  read: Callable
  read_backward: Callable
  state_backward: Callable


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(parts: Parts, eps: float, q, k, v):
  """Attention over all tokens; `parts` must be hashable."""
  return _forward(parts, eps, q, k, v)[0]


def _forward(parts, eps, q, k, v):
  tokens, state, axis = _specs(q)

  def run(q, k, v):
    found = _sum(parts.state(k, v), axis)
    return parts.read(q, found, eps), found

  out, found = sharded.on_mesh(run, (tokens,) * 3, (tokens, state))(q, k, v)
  return out, (q, k, v, found)


def _backward(parts, eps, saved, dout):
  tokens, state, axis = _specs(dout)

  def run(q, k, v, found, dout):
    dq, dstate = parts.read_backward(q, found, dout, eps)
    return dq, *parts.state_backward(k, v, _sum(dstate, axis))

  return sharded.on_mesh(
    run, (tokens, tokens, tokens, state, tokens), (tokens,) * 3
  )(*saved, dout)


attend.defvjp(_forward, _backward)


def _specs(x):
  """Specs (of q, k, v and out; of the state; sharded axes of the tokens)."""
  b, n, h, _ = x.shape
  batch = sharded.axes_of(b, sharded.BATCH) or None
  tokens = sharded.axes_of(n, sharded.SEQUENCE)
  heads = sharded.axes_of(h, sharded.TENSOR) or None
  return (
    P(batch, tokens or None, heads, None),
    State(P(batch, heads), P(batch, heads)),
    tokens,
  )


def _sum(state, axes):
  return jax.lax.psum(state, axes) if axes else state
