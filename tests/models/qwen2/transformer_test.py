"""Qwen2 against its definition in float64, and its published size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models.qwen2 import Qwen2, SIZES

TINY = dict(
  vocab_size=20, width=12, depth=2, heads=6, kv_heads=2, hidden=10, eps=1e-3
)


def random_params(module, *args):
  rng = np.random.default_rng()
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)['params']
  fill = lambda s: np.float32(rng.normal(size=s.shape) / s.shape[-1] ** 0.5)
  return jax.tree.map(fill, shapes)


def norm(x, scale, eps):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def attended(p, x, module):
  """Attention of one sequence, head by head."""
  k = module.width // module.heads
  m, per = len(x), module.heads // module.kv_heads
  out = np.zeros((m, module.width))
  project = lambda name: x @ p[name]['kernel'] + p[name]['bias']
  angles = np.arange(m)[:, None] * module.rope_theta ** (
    -2 * np.arange(k // 2) / k
  )

  def head(name, i, turns):
    y = project(name)[:, i * k : (i + 1) * k]
    if not turns:
      return y
    z = (y[:, : k // 2] + 1j * y[:, k // 2 :]) * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag], axis=1)

  for h in range(module.heads):
    q = head('query', h, True)
    keys, values = head('key', h // per, True), head('value', h // per, False)
    for i in range(m):
      logits = keys[: i + 1] @ q[i] / np.sqrt(k)
      weights = np.exp(logits - logits.max())
      out[i, h * k : (h + 1) * k] = weights @ values[: i + 1] / weights.sum()
  return out @ p['out']['kernel']


def reference(params, module, tokens):
  """Logits of one sequence."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x = params['table']['embedding'][tokens]
  for i in range(module.depth):
    p = jax.tree.map(lambda a, i=i: a[i], params['layers'])
    y = norm(x, p['attention_norm']['scale'], module.eps)
    x = x + attended(p, y, module)
    y = norm(x, p['mlp_norm']['scale'], module.eps)
    gate = y @ p['gate']['kernel']
    y = gate / (1 + np.exp(-gate)) * (y @ p['up']['kernel'])
    x = x + y @ p['down']['kernel']
  x = norm(x, params['final_norm']['scale'], module.eps)
  return x @ (params['table']['embedding'].T if module.tied else params['head'])


@pytest.mark.long
@pytest.mark.parametrize('tied', [True, False])
def test_logits_are_those_of_the_definition_with_padding(tied):
  module = Qwen2(**TINY, tied=tied)
  tokens = np.random.default_rng().integers(20, size=(2, 7)).astype(np.int32)
  mask = np.arange(7) < np.array([[7], [4]])
  params = random_params(module, tokens, mask)
  got = jax.jit(module.apply)({'params': params}, tokens, mask)
  for row, length in ((0, 7), (1, 4)):
    want = reference(params, module, tokens[row, :length])
    np.testing.assert_allclose(got[row, :length], want, rtol=1e-4, atol=1e-5)


def test_qwen2_has_its_published_parameter_count():
  tokens = jnp.zeros((1, 2), jnp.int32)
  shapes = jax.eval_shape(
    Qwen2(**SIZES['qwen2_1.5b']).init, jax.random.key(0), tokens, tokens == 0
  )
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 1_543_714_304
