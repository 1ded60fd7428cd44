r"""CAME: factored adaptive steps, weighted by confidence (2307.02047).

For a matrix with gradient g, all means in float32, no bias correction:

  R = ema_b2(mean over columns of g^2 + eps1),  C = ema_b2(mean over rows)   (1)
  u = g * approx(R, C),   approx(R, C)_ij = (R_i C_j / mean(R))^-1/2         (2)
  u = u / max(1, rms(u) / clip_threshold)                                    (3)
  m = ema_b1(u)                                                              (4)
  r = (u - m)^2 + eps2, and its row and column means ema_b3, as in (1)       (5)
  update = m * approx(R_r, C_r)                                              (6)

The mean of R is the mean of C, so that approx is symmetric in rows and columns:
the kernels here (in, out) take the same steps as PyTorch's (out, in).

This is SANA's variant: only matrices are factored. Everything else, such as
biases and depthwise kernels, keeps the full second moment V in place of (1) and
(2) and takes m as its step. The published package factors the last two axes of
every tensor with two or more. 1x1 convolutions count as matrices in SANA and
here, where their kernels are (1, 1, in, out).

Layers stacked by nn.scan on a leading axis are separate layers: a stacked
[20, d, e] kernel is 20 matrices, each with its own statistics and clipping.
"""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from sana_jax.tree import name_of

STACKED = r'(^|/)(blocks|layers)/'  # Parameters that have a leading layer axis.


class CameState(NamedTuple):
  """Float32 trees like the parameters, with MaskedNode for absent entries."""

  mu: optax.Updates  # m, of the leaf's shape.
  nu: optax.Updates  # V where not factored.
  row: optax.Updates  # R, without the last axis,
  col: optax.Updates  # and C, without the last but one, where factored.
  res_row: optax.Updates  # The same two of r.
  res_col: optax.Updates


class _Result(NamedTuple):
  update: Any
  state: CameState  # Of one leaf.


def came(
  learning_rate: optax.ScalarOrSchedule,
  b1: ArrayLike = 0.9,
  b2: ArrayLike = 0.999,
  b3: ArrayLike = 0.9999,
  eps1: ArrayLike = 1e-30,
  eps2: ArrayLike = 1e-16,
  clip_threshold: ArrayLike = 1.0,
  weight_decay: ArrayLike = 0.0,
  stacked_pattern: str = STACKED,
) -> optax.GradientTransformation:
  """CAME with decoupled weight decay, as used to train SANA.

  Good learning rates are 0.5 to 0.9 of AdamW's (2307.02047, 5); SANA's is 1e-4.

  >>> params = {'kernel': jnp.ones((2, 2))}
  >>> tx = came(1e-2)
  >>> grads = jax.tree.map(jnp.ones_like, params)
  >>> updates, state = tx.update(grads, tx.init(params), params)
  >>> params = optax.apply_updates(params, updates)

  Args:
    learning_rate: a number or an optax schedule.
    b1: see `scale_by_came`, as for the next six.
    b2: of the second moment.
    b3: of the instability.
    eps1: added to g^2.
    eps2: added to the instability.
    clip_threshold: of the root mean square of u.
    weight_decay: multiplied by the learning rate; applies to every leaf.
    stacked_pattern: pattern of leaves with a leading layer axis.
  """
  return optax.chain(
    scale_by_came(b1, b2, b3, eps1, eps2, clip_threshold, stacked_pattern),
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_learning_rate(learning_rate),
  )


def scale_by_came(
  b1: ArrayLike = 0.9,
  b2: ArrayLike = 0.999,
  b3: ArrayLike = 0.9999,
  eps1: ArrayLike = 1e-30,
  eps2: ArrayLike = 1e-16,
  clip_threshold: ArrayLike = 1.0,
  stacked_pattern: str = STACKED,
) -> optax.GradientTransformation:
  """Rescales gradients by CAME; the equations are at the top of this file.

  Args:
    b1: decay of the momentum m.
    b2: decay of the second moment's row and column means.
    b3: decay of the instability's.
    eps1: keeps the second moment positive.
    eps2: keeps the instability positive.
    clip_threshold: the largest root mean square of u, per layer.
    stacked_pattern: a regular expression searched in a leaf's path (joined by
      '/'); if it matches, the first axis is the layer axis.

  Returns:
    A transformation whose updates have the gradients' dtypes.
  """

  def vmapped(f, path):
    return jax.vmap(f) if is_stacked(path, stacked_pattern) else f

  def init(params):
    def leaf(path, p):
      return vmapped(_init, path)(jnp.zeros(p.shape, jnp.float32))

    return _gather(jax.tree_util.tree_map_with_path(leaf, params)).state

  def step(g, state):
    return _step(g, state, b1, b2, b3, eps1, eps2, clip_threshold)

  def update(updates, state, params=None):
    del params
    leaf = lambda path, g, *fields: vmapped(step, path)(g, CameState(*fields))
    return tuple(
      _gather(jax.tree_util.tree_map_with_path(leaf, updates, *state))
    )

  return optax.GradientTransformation(init, update)


def is_stacked(path: tuple[Any, ...], pattern: str = STACKED) -> bool:
  """Whether the leaf at this key path has a leading layer axis."""
  name = name_of(path)
  return re.search(pattern, name) is not None


def _init(zeros):
  """Initial state of one tensor of one layer."""
  none = optax.MaskedNode()
  if not _is_matrix(zeros):
    return _Result(none, CameState(zeros, zeros, none, none, none, none))
  row, col = zeros[..., 0], zeros[..., 0, :]
  return _Result(none, CameState(zeros, none, row, col, row, col))


def _step(g, state, b1, b2, b3, eps1, eps2, clip_threshold):
  """Update of one tensor of one layer, and its new state."""
  ema = lambda old, new, decay: decay * old + (1 - decay) * new
  dtype, g = g.dtype, g.astype(jnp.float32)
  square = g**2 + eps1
  if _is_matrix(g):
    row = ema(state.row, square.mean(-1), b2)
    col = ema(state.col, square.mean(-2), b2)
    state = state._replace(row=row, col=col)
    u = g * _approx(row, col)
  else:
    nu = ema(state.nu, square, b2)
    state = state._replace(nu=nu)
    u = g * jax.lax.rsqrt(nu)
  u /= jnp.maximum(1, jnp.sqrt(jnp.mean(u**2)) / clip_threshold)
  mu = ema(state.mu, u, b1)
  state = state._replace(mu=mu)
  if not _is_matrix(g):
    return _Result(mu.astype(dtype), state)
  instability = (u - mu) ** 2 + eps2
  row = ema(state.res_row, instability.mean(-1), b3)
  col = ema(state.res_col, instability.mean(-2), b3)
  state = state._replace(res_row=row, res_col=col)
  return _Result((mu * _approx(row, col)).astype(dtype), state)


def _is_matrix(x):
  """Whether it is factored: a matrix, possibly with leading axes of size 1."""
  return x.ndim >= 2 and x.size == math.prod(x.shape[-2:])


def _approx(row, col):
  """(row_i col_j / mean(row))^-1/2."""
  # Not row / mean: a row without gradient is about 1e-33, so that the quotient
  # is denormal, which XLA flushes to 0, and 0 * rsqrt(0) is NaN.
  return (jax.lax.rsqrt(row) * jnp.sqrt(row.mean()))[
    ..., :, None
  ] * jax.lax.rsqrt(col)[..., None, :]


def _gather(results):
  """Transposes a tree of results into a result of trees."""
  pick = lambda get: jax.tree.map(
    get, results, is_leaf=lambda x: isinstance(x, _Result)
  )
  fields = [pick(lambda r, i=i: r.state[i]) for i in range(6)]
  return _Result(pick(lambda r: r.update), CameState(*fields))
