"""Importance of blocks: 1 - cosine of input and output."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion.denoiser import Denoiser
from sana_jax.errors import UserError
from sana_jax.evaluation import importance
from sana_jax.inference.pipeline import Pipeline
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.weights.folder import Model

FOLDER = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
MODULE = Sana(
  width=16,
  depth=4,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  out_channels=3,
  caption_channels=6,
)


def normal(seed, *shape):
  return jnp.asarray(
    np.random.default_rng(seed).normal(size=shape), jnp.float32
  )


@pytest.fixture(scope='module')
def params():
  shapes = abstract.transformer(MODULE)
  return jax.tree.map(lambda s: normal(s.size, *s.shape) * 0.3, shapes)


def inputs():
  mask = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
  return normal(1, 2, 4, 6, 3), jnp.float32(0.3), normal(2, 2, 5, 6), mask


def identity(params, index):
  """The parameters, with zero output projections in one block."""
  blocks = dict(params['blocks'])
  zero = lambda tree: jax.tree.map(lambda x: x.at[index].set(0), tree)
  for layer, part in (
    ('self_attention', 'out'),
    ('cross_attention', 'out'),
    ('mix_ffn', 'point'),
  ):
    blocks[layer] = {**blocks[layer], part: zero(blocks[layer][part])}
  return {**params, 'blocks': blocks}


@pytest.mark.long
def test_values_are_those_of_the_definition(params):
  x, t, text, mask = inputs()
  denoiser = Denoiser(MODULE)
  found = importance.distances(denoiser, params, x, t, text, mask)
  condition = denoiser.condition(params, text, mask)
  after = denoiser(params, x, t, condition, features=(0, 1, 2, 3)).features
  first, _ = MODULE.apply({'params': params}, x, method='tokens')
  states = np.asarray([first, *after], np.float64)
  products = (states[1:] * states[:-1]).sum(-1)
  norms = np.linalg.norm(states, axis=-1)
  cosines = products / (norms[1:] * norms[:-1])
  np.testing.assert_allclose(found, 1 - cosines.mean((1, 2)), rtol=1e-4)
  assert (np.asarray(found) > 0.01).all()


@pytest.mark.long
@pytest.mark.parametrize('index', [1, 3])
def test_an_identity_block_has_none(params, index):
  found = importance.distances(
    Denoiser(MODULE), identity(params, index), *inputs()
  )
  assert found[index] == 0
  assert (np.delete(found, index) > 0.01).all()


@pytest.fixture(scope='module')
def pipe():
  pipe = Pipeline.from_pretrained(FOLDER, 'float32')
  return pipe.replace(recommended={'steps': 1, 'guidance_scale': 1.0})


@pytest.mark.long
@pytest.mark.parametrize('data', ['noise', 'pictures', 'given'])
def test_a_measurement_is_the_mean_over_prompts_and_times(pipe, data):
  prompts = ['a cat', 'a dog', 'a hen']
  latents = np.asarray(normal(5, 3, 8, 8, 4))
  given = lambda i: latents[i : i + 1] if data == 'given' else data
  every = latents if data == 'given' else data
  counts = []
  whole = importance.measure(
    pipe, prompts, every, levels=2, batch_size=2, on_level=counts.append
  )
  assert counts == [2, 2, 1, 1] and whole.shape == (2,)
  alone = [
    importance.measure(pipe, [p], given(i), levels=2, seed=i)
    for i, p in enumerate(prompts)
  ]
  np.testing.assert_allclose(whole, np.mean(alone, axis=0), rtol=1e-3)
  assert np.std(alone, axis=0).max() > 0


@pytest.mark.long
def test_a_grown_model_has_no_importance_in_its_new_blocks(pipe):
  module, variables = pipe.transformer
  params = variables['params']
  double = jax.tree.map(lambda x: jnp.concatenate([x, x]), params['blocks'])
  deep = {**params, 'blocks': double}
  for index in (2, 3):
    deep = identity(deep, index)
  # A bias of an output would be no identity.
  for layer in ('self_attention', 'cross_attention'):
    assert deep['blocks'][layer]['out']['bias'].shape[0] == 4
  model = Model(module.clone(depth=4), {'params': deep})
  found = importance.measure(
    pipe.replace(transformer=model), ['a cat'], 'noise', levels=1
  )
  assert (found[2:] == 0).all() and (found[:2] > 0).all()


@pytest.mark.fast
@pytest.mark.parametrize(
  'values, depth, kept',
  [
    ([3.0, 1.0, 2.0, 5.0], 2, [0, 3]),
    ([3.0, 1.0, 2.0, 5.0], 3, [0, 2, 3]),
    ([1.0, 1.0, 1.0], 1, [0]),
    ([0.0, 2.0, 2.0, 2.0], 2, [1, 2]),
  ],
)
def test_the_most_important_blocks_are_kept_in_their_order(values, depth, kept):
  assert importance.most_important(values, depth) == kept


@pytest.mark.fast
@pytest.mark.parametrize('depth', [0, 3, 9])
def test_a_depth_that_leaves_nothing_out_or_nothing_over_is_refused(depth):
  with pytest.raises(UserError) as error:
    importance.most_important([1.0, 2.0, 3.0], depth)
  assert (error.value.key, error.value.value) == ('--depth', depth)
