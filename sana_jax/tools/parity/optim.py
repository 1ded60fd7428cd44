"""Parity of CAME with the published package, over 100 steps.

Matrices and vectors only, on which SANA's variant agrees with the package; it
factors fewer shapes.
"""

import came_pytorch
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from sana_jax.optim import came
from sana_jax.tools.parity.ledger import Case, PIPELINE, relative_error

_STEPS = 100
_SETTINGS = dict(learning_rate=1e-2, weight_decay=0.1)


def cases() -> list[Case]:
  """Cases of factored matrices, and of an unfactored vector."""
  return [
    Case(
      'optim',
      f'CAME, {_STEPS} steps: {what}',
      'tiny',
      'float32',
      PIPELINE,
      lambda seed, name=name: _error(name, seed),
      against='came-pytorch',
    )
    for name, what in (
      ('first', 'matrix 12 x 7'),
      ('second', 'matrix 7 x 5'),
      ('bias', 'vector'),
    )
  ]


def _problem(seed):
  """Random linear regression, whose gradients vary in size and direction."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  params = {'first': draw(12, 7), 'second': draw(7, 5), 'bias': draw(5)}
  return params, draw(_STEPS, 32, 12), draw(_STEPS, 32, 5)


def _error(name, seed):
  params, xs, ys = _problem(seed)
  want = _theirs(params, xs, ys)[name]
  if relative_error(params[name], want) < 0.1:
    raise ValueError(f'{name} has hardly moved: this run shows nothing')
  return relative_error(_ours(params, xs, ys)[name], want)


def _loss(params, x, y):
  out = x @ params['first'] @ params['second'] + params['bias'] - y
  return (out * out).mean()


def _ours(params, xs, ys):
  tx = came(**_SETTINGS)

  def step(carry, batch):
    params, state = carry
    grads = jax.grad(_loss)(params, *batch)
    updates, state = tx.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), None

  params = jax.tree.map(jnp.asarray, params)
  return jax.lax.scan(step, (params, tx.init(params)), (xs, ys))[0][0]


def _theirs(params, xs, ys):
  params = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
  optimizer = came_pytorch.CAME(
    params.values(),
    lr=_SETTINGS['learning_rate'],
    weight_decay=_SETTINGS['weight_decay'],
  )
  for x, y in zip(xs, ys):
    optimizer.zero_grad()
    _loss(params, torch.from_numpy(x), torch.from_numpy(y)).backward()
    optimizer.step()
  return {k: v.detach().numpy() for k, v in params.items()}
