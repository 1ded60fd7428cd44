"""Gemma-2 against transformers' stored numbers, and properties of its masks."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from sana_jax.models.gemma2 import Gemma2, SIZES
from sana_jax.weights import gemma2 as weights
from sana_jax.weights import table

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden' / 'gemma2.safetensors'
TINY = dict(
  vocab_size=40,
  width=12,
  depth=3,
  heads=4,
  kv_heads=2,
  head_dim=6,
  hidden=20,
  query_scale=5,
  sliding_window=3,
)


def tiny(length, **changes):
  """A model, random parameters (norms' scales included) and tokens."""
  model = Gemma2(**{**TINY, **changes})
  rng = np.random.default_rng()
  tokens = jnp.asarray(rng.integers(3, 39, (2, length)), jnp.int32)
  mask = jnp.ones(tokens.shape, bool)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, mask)
  params = jax.tree.map(
    lambda s: (0.3 * rng.normal(size=s.shape)).astype(s.dtype), shapes
  )
  return model, params, tokens, mask


@functools.partial(jax.jit, static_argnums=0, static_argnames='method')
def run(model, *args, method='__call__'):
  return model.apply(*args, method=method)


def relative_error(got, want):
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.fixture(scope='module')
def golden():
  with safetensors.safe_open(GOLDEN, 'numpy') as f:
    config = json.loads(f.metadata()['config'])
  tensors = safetensors.numpy.load_file(GOLDEN)
  data = {
    key: tensors.pop(key) for key in ('ids', 'mask', 'hidden_states', 'logits')
  }
  model = Gemma2(**weights.fields_from_transformers(config))
  tokens = jnp.asarray(data['ids'], jnp.int32)
  mask = jnp.asarray(data['mask'], bool)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, mask)
  params = table.load(
    weights.RULES, weights.model_tensors(tensors), shapes['params']
  )
  return model, {'params': params}, tokens, mask, data


def test_hidden_states_are_those_of_transformers(golden):
  model, params, tokens, mask, data = golden
  got = run(model, params, tokens, mask, method='hidden_states')
  assert got.shape == data['hidden_states'].shape
  for ours, reference in zip(got, data['hidden_states']):
    assert relative_error(ours, reference) <= 1e-5
  last = run(model, params, tokens, mask)
  assert relative_error(last, data['hidden_states'][-1]) <= 1e-5


def test_logits_are_those_of_transformers(golden):
  model, params, tokens, mask, data = golden
  got = run(model, params, tokens, mask, method='logits')
  assert relative_error(got, data['logits']) <= 1e-5


def test_bfloat16_stays_near_float32(golden):
  model, params, tokens, mask, data = golden
  half = run(model.clone(dtype=jnp.bfloat16), params, tokens, mask)
  assert half.dtype == jnp.bfloat16
  error = relative_error(half.astype(jnp.float32), data['hidden_states'][-1])
  assert 1e-4 < error < 3e-2


def test_gemma2_2b_has_its_published_parameter_count():
  tokens, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
  shapes = jax.eval_shape(
    Gemma2(**SIZES['gemma2_2b']).init, jax.random.key(0), tokens, mask
  )
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 2_614_341_888


@pytest.mark.long
def test_padding_does_not_change_real_tokens():
  model, params, tokens, mask = tiny(5)
  padded = jnp.pad(tokens, ((0, 0), (0, 4)))
  longer = jnp.pad(mask, ((0, 0), (0, 4)))
  np.testing.assert_allclose(
    run(model, params, padded, longer)[:, :5],
    run(model, params, tokens, mask),
    atol=2e-5,
  )


@pytest.mark.long
def test_a_tokens_reach_is_that_of_its_layers_windows():
  """Two sliding layers of window 3 see 4 tokens back; a full one sees all."""
  for types, reach in (('sliding',) * 2, 4), (('sliding', 'full'), 9):
    model, params, tokens, mask = tiny(10, depth=2, layer_types=types)
    changed = tokens.at[:, 0].add(1)
    difference = jnp.abs(
      run(model, params, changed, mask) - run(model, params, tokens, mask)
    )
    reached = np.flatnonzero(jnp.max(difference, axis=(0, 2)))
    assert reached.tolist() == list(range(reach + 1))


def test_layers_alternate_starting_with_a_sliding_window():
  assert Gemma2(**TINY).is_sliding() == (True, False, True)


def test_a_prompt_without_tokens_gives_no_nan():
  model, params, tokens, mask = tiny(4)
  assert jnp.isfinite(run(model, params, tokens, mask & False)).all()


@pytest.mark.long
def test_recomputing_layers_changes_no_gradient():
  model, params, tokens, mask = tiny(4, depth=2)

  def gradient(model):
    loss = lambda p: jnp.mean(
      model.apply(p, tokens, mask, method='logits') ** 2
    )
    return jax.jit(jax.grad(loss))(params)

  for a, b in zip(
    jax.tree.leaves(gradient(model)),
    jax.tree.leaves(gradient(model.clone(remat=True))),
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize('window', [4096, 3])
def test_a_cached_prefix_changes_nothing(window):
  model, params, *_ = tiny(11, sliding_window=window)
  rng = np.random.default_rng()
  start = jnp.asarray(rng.integers(40, size=(1, 5)), jnp.int32)
  rest = jnp.asarray(rng.integers(40, size=(3, 6)), jnp.int32)
  mask = jnp.arange(6) < jnp.array([[2], [6], [4]])
  whole = jnp.concatenate([jnp.repeat(start, 3, axis=0), rest], axis=1)
  ones = jnp.ones((3, 5), bool)
  want = run(model, params, whole, jnp.concatenate([ones, mask], axis=1))
  states, past = run(model, params, start, method='read')
  got = run(model, params, rest, mask, past)
  np.testing.assert_allclose(states[0], want[0, :5], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(got, want[:, 5:], rtol=1e-5, atol=1e-6)
