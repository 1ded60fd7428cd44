"""Outputs and gradients of a model are the same with and without kernels."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax import kernels
from sana_jax.models import abstract
from sana_jax.models.sana import Sana

FIELDS = dict(
  width=64,
  depth=2,
  cross_heads=2,
  head_dim=32,
  in_channels=4,
  out_channels=4,
  caption_channels=6,
  qk_norm=True,
  cross_norm=True,
)


@pytest.fixture
def interpreted(monkeypatch):
  """Backends of the ops that are the TPU's kernels, interpreted."""
  stub = types.SimpleNamespace(
    **{
      name: functools.partial(op.backend('mosaic_tpu'), interpret=True)
      for name, op in kernels.OPS.items()
    }
  )
  monkeypatch.setitem(sys.modules, 'interpreted_kernels', stub)
  for name, op in kernels.OPS.items():
    monkeypatch.setitem(
      op.kernels, 'interpreted', f'interpreted_kernels:{name}'
    )
  return dict.fromkeys(kernels.OPS, 'interpreted')


def inputs():
  rng = np.random.default_rng()
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return draw(2, 5, 7, 4), jnp.float32([990, 120]), draw(2, 5, 6)


@pytest.mark.parametrize(
  'remat',
  [
    pytest.param('none', marks=pytest.mark.slow),
    pytest.param('full', marks=pytest.mark.long),
  ],
)
def test_kernels_change_neither_velocity_nor_gradients(interpreted, remat):
  module = Sana(**FIELDS, remat=remat)
  params = jax.tree.map(
    lambda s: jnp.asarray(
      np.random.default_rng().normal(size=s.shape) * 0.3, s.dtype
    ),
    abstract.transformer(module),
  )
  x, t, text = inputs()
  cotangent = jnp.cos(x)

  def run(backends):
    with kernels.prefer(**backends):
      out, back = jax.vjp(
        lambda params, x: module.apply({'params': params}, x, t, text),
        params,
        x,
      )
      return out, *back(cotangent)

  got, want = jax.jit(lambda: run(interpreted))(), jax.jit(lambda: run({}))()
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)
