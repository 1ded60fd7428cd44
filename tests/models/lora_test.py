"""LoRA and DoRA: initial values, outputs, gradients and merging."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.models import lora
from sana_jax.models.layers import Dense, Patches
from sana_jax.models.lora import Lora
from sana_jax.tree import leaves, unflatten

DEPTH, IN, OUT, RANK = 3, 12, 7, 2


def normal(*shape):
  return jnp.asarray(np.random.default_rng().normal(size=shape), jnp.float32)


def stack():
  """Kernels of a stack of layers, and their adapters."""
  params = {'stack': {'kernel': normal(DEPTH, IN, OUT)}}
  factors = {
    'stack': {
      'down': normal(DEPTH, IN, RANK),
      'up': normal(DEPTH, RANK, OUT),
      'magnitude': jnp.abs(normal(DEPTH, OUT)) + 0.5,
    }
  }
  return params, factors


def exact(params, factors, scale, use_dora):
  """W' of each layer in float64, from the papers."""
  w, (a, b) = (
    params['stack']['kernel'],
    (factors['stack'][name] for name in ('down', 'up')),
  )
  w, a, b = (np.float64(x) for x in (w, a, b))
  w = w + scale * a @ b
  if use_dora:
    norm = np.linalg.norm(w, axis=1, keepdims=True)
    w = factors['stack']['magnitude'][:, None] * w / norm
  return w


@pytest.mark.parametrize('use_dora', [False, True])
def test_merged_weights_are_those_of_the_papers(use_dora):
  params, factors = stack()
  if not use_dora:
    del factors['stack']['magnitude']
  found = Lora({'stack': RANK}, {'stack': 0.7}, use_dora)
  got = lora.merged(params, lora.collection(found, factors, params))
  np.testing.assert_allclose(
    got['stack']['kernel'],
    exact(params, factors, 0.7, use_dora),
    rtol=1e-4,
    atol=1e-4,
  )


@pytest.mark.parametrize('use_dora', [False, True])
def test_a_new_adapter_changes_nothing(use_dora):
  params, _ = stack()
  found = Lora({'stack': RANK}, {'stack': 1.0}, use_dora)
  factors = lora.init(jax.random.key(0), found, params)
  factors = lora.completed(found, factors, params)
  assert ('magnitude' in factors['stack']) == use_dora
  merged = lora.merged(params, lora.collection(found, factors, params))
  np.testing.assert_allclose(
    merged['stack']['kernel'], params['stack']['kernel'], rtol=1e-5, atol=1e-6
  )


def test_down_is_uniform_by_its_fan_in_and_up_is_zero():
  shapes = {
    'patches': {'kernel': jnp.zeros((2, 2, 400, 5))},
    'layer': {'kernel': jnp.zeros((900, 5))},
  }
  found = Lora({'patches': 64, 'layer': 64}, {'patches': 1.0, 'layer': 1.0})
  factors = lora.init(jax.random.key(3), found, shapes)
  for name, fan_in in (('patches', 1600), ('layer', 900)):
    bound, down = fan_in**-0.5, factors[name]['down']
    assert 0.99 * bound < jnp.abs(down).max() <= bound
    np.testing.assert_allclose(down.std(), bound / 3**0.5, rtol=0.02)
    assert not factors[name]['up'].any()
  assert factors['patches']['down'].shape == (2, 2, 400, 64)
  assert factors['patches']['up'].shape == (64, 5)


def test_the_layers_of_a_stack_start_from_different_values():
  found = Lora({'stack': RANK}, {'stack': 1.0})
  down = lora.init(jax.random.key(0), found, stack()[0])['stack']['down']
  assert len(np.unique(down)) == down.size


def test_norms_need_no_matrix_of_the_kernels_size():
  _, factors = stack()
  kernel, down, up = normal(50, 40), normal(50, RANK), normal(RANK, 40)
  norms = lora.column_norms(kernel, down, up, 1.3)
  want = np.linalg.norm(
    np.float64(kernel) + 1.3 * np.float64(down) @ up, axis=0
  )
  np.testing.assert_allclose(norms, want, rtol=1e-5)
  jaxpr = jax.make_jaxpr(lora.column_norms)(kernel, down, up, 1.3)
  dots = [e for e in jaxpr.eqns if e.primitive.name == 'dot_general']
  assert all(e.outvars[0].aval.shape != kernel.shape for e in dots)


@pytest.mark.long
def test_the_norm_of_dora_is_a_constant_in_the_gradient():
  params, factors = stack()
  found = Lora({'stack': RANK}, {'stack': 0.7}, True)
  weights = normal(DEPTH, IN, OUT)

  def loss(factors, norm=None):
    of = factors['stack']
    w = params['stack']['kernel'] + 0.7 * of['down'] @ of['up']
    norm = jnp.linalg.norm(w, axis=1) if norm is None else norm
    return jnp.sum(weights * (of['magnitude'] / norm)[:, None] * w)

  def ours(factors):
    merged = lora.merged(params, lora.collection(found, factors, params))
    return jnp.sum(weights * merged['stack']['kernel'])

  got = jax.grad(ours)(factors)
  of = factors['stack']
  constant = jnp.linalg.norm(
    params['stack']['kernel'] + 0.7 * of['down'] @ of['up'], axis=1
  )
  want = jax.grad(lambda f: loss(f, constant))(factors)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    got,
    want,
  )
  through = jax.grad(loss)(factors)['stack']['down']
  assert not np.allclose(got['stack']['down'], through, rtol=1e-2)


@pytest.mark.parametrize('layer', ['dense', 'patches'])
def test_a_layer_with_dora_equals_one_with_merged_weights(layer):
  shape, shapes, module = {
    'dense': ((2, 3, IN), (IN, OUT), Dense(OUT)),
    'patches': ((2, 4, 6, 5), (2, 2, 5, OUT), Patches(OUT, (2, 2))),
  }[layer]
  *before, inputs, _ = shapes
  params = {'kernel': normal(*shapes), 'bias': normal(OUT)}
  adapter = {
    'down': normal(*before, inputs, RANK),
    'up': normal(RANK, OUT),
    'scale': jnp.float32(0.3),
    'gain': normal(OUT),
  }
  x = normal(*shape)
  got = module.apply({'params': params, 'adapters': adapter}, x)
  merged = {**params, 'kernel': lora.merged_kernel(params['kernel'], adapter)}
  want = module.apply({'params': merged}, x)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
  assert not np.allclose(got, module.apply({'params': params}, x), atol=0.1)


def test_patches_without_an_adapter_are_flaxs_convolution():
  x, patch = normal(2, 4, 6, 5), (2, 2)
  ours, theirs = Patches(OUT, patch), nn.Conv(OUT, patch, patch, 'VALID')
  variables = theirs.init(jax.random.key(0), x)
  assert leaves(ours.init(jax.random.key(0), x)).keys() == (
    leaves(variables).keys()
  )
  np.testing.assert_array_equal(
    ours.apply(variables, x), theirs.apply(variables, x)
  )


def test_layers_that_can_be_adapted_are_those_with_a_matrix():
  params = unflatten(
    {
      'blocks/mix_ffn/depthwise/kernel': np.zeros((2, 3, 3, 4)),
      'blocks/mix_ffn/point/kernel': np.zeros((2, 4, 4)),
      'norm/scale': np.zeros(4),
      'head/out/kernel': np.zeros((4, 4)),
    }
  )
  assert list(lora.layers(params)) == ['blocks/mix_ffn/point', 'head/out']
  assert len(leaves(params)) == 4


@pytest.mark.parametrize(
  'text', ['to_q', 'to_q=', '=3', 'to_q=0', 'to_q=x', '(=2']
)
def test_an_invalid_entry_of_a_pattern_is_refused(text):
  with pytest.raises(UserError) as e:
    lora.numbers(f'to_k=2 {text}', 'rank_pattern', whole=True)
  assert e.value.key == 'lora.rank_pattern'


def test_numbers_are_by_pattern():
  text = 'to_q=2 attn2.to_(k|v)=4'
  want = {'to_q': 2, 'attn2.to_(k|v)': 4}
  assert lora.numbers(text, 'rank_pattern', whole=True) == want
  assert lora.numbers('to_q=0.5', 'alpha_pattern') == {'to_q': 0.5}
