"""DC-AE's blocks: closed forms of the parts that the golden file averages."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax import kernels
from sana_jax.kernels import relu_linear_attention
from sana_jax.models.autoencoders.dc_ae import blocks


def test_both_forms_of_the_attention_are_one_function():
  q, k, v = np.float32(np.random.default_rng().normal(size=(3, 2, 6, 3, 8)))
  np.testing.assert_allclose(
    jax.jit(blocks.relu_quadratic_attention)(q, k, v),
    relu_linear_attention(q, k, v),
    rtol=1e-5,
    atol=1e-6,
  )


def test_a_query_without_positive_entries_gets_zeros():
  k, v = jax.random.normal(jax.random.key(0), (2, 1, 4, 1, 8))
  out = blocks.relu_quadratic_attention(-jnp.ones_like(k), k, v)
  np.testing.assert_array_equal(out, 0)


def test_attention_of_equal_pixels_is_their_value():
  """Averages of equal values: softmax-free attention keeps them, too."""
  module = blocks.MultiScaleAttention(scales=(), head_dim=4)
  x = jnp.broadcast_to(jnp.arange(1.0, 5), (1, 3, 3, 4))
  variables = jax.jit(module.init)(jax.random.key(0), x)
  params = variables['params'] | {
    name: {'kernel': jnp.eye(4)} for name in ('query', 'key', 'value', 'out')
  }
  got = jax.jit(module.apply)({'params': params}, x)
  rms = np.sqrt(np.mean(np.arange(1.0, 5) ** 2) + 1e-5)
  np.testing.assert_allclose(got, x + x / rms, rtol=1e-5)


def test_a_head_reads_consecutive_channels_of_all_projections():
  """With two heads, the first reads Q and half of K: zero Q, zero head."""
  module = blocks.MultiScaleAttention(scales=(), head_dim=2)
  x = jnp.ones((1, 2, 2, 4))
  params = jax.jit(module.init)(jax.random.key(0), x)['params'] | {
    'query': {'kernel': jnp.zeros((4, 4))},
    'key': {'kernel': jnp.eye(4)},
    'value': {'kernel': 3 * jnp.eye(4)},
    'out': {'kernel': jnp.eye(4)},
  }
  got = jax.jit(module.apply)({'params': params}, x)
  # Channels [Q Q Q Q K K | K K V V V V]: q, k, v = (0, 0, 1) and (1, 3, 3).
  y = np.array([0.0, 0, 3, 3])
  np.testing.assert_allclose(
    got[0, 0, 0], 1 + y / np.sqrt(np.mean(y**2) + 1e-5), rtol=1e-5
  )


class Layers(nn.Module):
  """The residual block as layers of their own."""

  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    conv = functools.partial(blocks.conv3x3, 8, dtype=self.dtype)
    y = nn.silu(conv(name='conv1')(x))
    y = conv(name='conv2', use_bias=False)(y)
    return x + blocks.make_norm('rms_norm', dtype=self.dtype, name='norm')(y)


@pytest.mark.long
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_residual_block_is_its_layers_in_two_operations(dtype):
  x = jax.random.normal(jax.random.key(0), (2, 5, 4, 8), dtype)
  block, layers = blocks.ResBlock(dtype=dtype), Layers(dtype)
  with kernels.recorded() as calls:
    variables = block.init(jax.random.key(1), x)
  assert [c.op for c in calls] == ['conv3x3_silu', 'conv3x3_norm']
  same = lambda a, b: bool((a == b).all()) and a.dtype == b.dtype
  assert jax.tree.all(
    jax.tree.map(same, variables, layers.init(jax.random.key(1), x))
  )
  variables = jax.tree.map(
    lambda a: a + 0.1 * jax.random.normal(jax.random.key(2), a.shape), variables
  )
  assert same(block.apply(variables, x), layers.apply(variables, x))


def test_batch_norm_uses_stored_statistics():
  x = jnp.arange(8.0).reshape(1, 2, 2, 2)
  variables = {
    'params': {'scale': jnp.array([2.0, 1]), 'bias': jnp.array([0.0, 5])},
    'batch_stats': {
      'mean': jnp.array([1.0, 2]),
      'var': jnp.array([4.0, 9]),
      'count': jnp.zeros((), jnp.int32),
    },
  }
  got = blocks.BatchNorm().apply(variables, x)
  np.testing.assert_allclose(got[..., 0], x[..., 0] - 1, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(got[..., 1], (x[..., 1] - 2) / 3 + 5, rtol=1e-5)


def test_bfloat16_blocks_keep_float32_parameters():
  x = jnp.ones((1, 8, 8, 8), jnp.bfloat16)
  block = blocks.EfficientViTBlock(head_dim=4, dtype=jnp.bfloat16)
  shapes = jax.eval_shape(block.init, jax.random.key(0), x)
  assert {p.dtype for p in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}
  assert jax.eval_shape(block.apply, shapes, x).dtype == jnp.bfloat16
