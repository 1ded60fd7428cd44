"""SigLIP's tower against its definition in float64, and its size."""

import math

import jax
import numpy as np
import pytest

from sana_jax.models.siglip import SigLIP, SIZES


def norm(x, p, eps):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
  return x * p['scale'] + p['bias']


def dense(x, p):
  return x @ p['kernel'] + p['bias']


def reference(params, module, image):
  """Features of one picture."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  n = module.patch
  kernel = params['patch_embed']['kernel'].reshape(-1, module.width)
  patches = [
    image[y : y + n, x : x + n].reshape(-1)
    for y in range(0, module.side * n, n)
    for x in range(0, module.side * n, n)
  ]
  x = np.stack(patches) @ kernel + params['patch_embed']['bias']
  x = x + params['position']
  k = module.width // module.heads
  for i in range(module.depth):
    p = jax.tree.map(lambda a, i=i: a[i], params['layers'])
    y = norm(x, p['attention_norm'], module.eps)
    out = np.zeros_like(x)
    for h in range(module.heads):
      at = slice(h * k, (h + 1) * k)
      q, key, v = (dense(y, p[m])[:, at] for m in ('query', 'key', 'value'))
      weights = np.exp(q @ key.T / np.sqrt(k))
      out[:, at] = weights @ v / weights.sum(1, keepdims=True)
    x = x + dense(out, p['out'])
    y = dense(norm(x, p['mlp_norm'], module.eps), p['fc1'])
    y = y / 2 * (1 + np.tanh(math.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    x = x + dense(y, p['fc2'])
  return x


@pytest.mark.long
def test_features_are_those_of_the_definition():
  module = SigLIP(
    image_size=11, patch=3, width=12, depth=2, heads=3, hidden=10, eps=1e-3
  )
  rng = np.random.default_rng()
  images = rng.uniform(-1, 1, (2, 11, 11, 3)).astype(np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), images)['params']
  fill = lambda s: np.float32(rng.normal(size=s.shape) * 0.3)
  params = jax.tree.map(fill, shapes)
  got = jax.jit(module.apply)({'params': params}, images)
  for features, image in zip(got, images):
    want = reference(params, module, image.astype(np.float64))
    np.testing.assert_allclose(features, want, rtol=1e-4, atol=1e-4)


def test_so400m_has_the_parameters_of_its_layers():
  module = SigLIP(**SIZES['so400m_448'])
  image = jax.ShapeDtypeStruct((1, 448, 448, 3), np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), image)
  d, h, positions = 1152, 4304, 32 * 32
  layer = 4 * (d * d + d) + (d * h + h) + (h * d + d) + 4 * d
  want = (3 * 14 * 14 + 1) * d + positions * d + 26 * layer
  assert sum(x.size for x in jax.tree.leaves(shapes)) == want
