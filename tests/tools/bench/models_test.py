"""Random weights: the same everywhere, and of the usual size."""

import jax
import numpy as np
import pytest

from sana_jax.tools.bench import jax_side, models
from sana_jax.weights import folder

GOLDEN = folder.pathlib.Path(__file__).parents[2] / 'golden' / 'tiny_sana'


def test_a_tensor_depends_on_its_name_alone():
  one, again, other = (
    models.tensor(name, (30, 50), np.dtype('float32'))
    for name in ('a.weight', 'a.weight', 'b.weight')
  )
  np.testing.assert_array_equal(one, again)
  assert np.abs(one - other).max() > 0.1
  assert 0.9 < one.std() * 50**0.5 < 1.1
  assert (models.tensor('norm.weight', (5,), np.float32) == 1).all()
  assert (models.tensor('bn.running_var', (5,), np.float32) == 1).all()
  assert models.tensor('bn.num_batches_tracked', (), np.int64) == 0


def test_some_rows_are_those_of_the_whole():
  whole = models.tensor('a.weight', (2000, 1000), np.float32)
  lazy = models._lazy('a.weight', (2000, 1000), integer=False)
  np.testing.assert_array_equal(lazy.fetch(500, 1700), whole[500:1700])
  assert models._lazy('n.tracked', (), integer=True).read() == 0


@pytest.mark.long
def test_models_have_the_parameters_that_their_folder_would():
  for part in ('transformer', 'vae', 'text_encoder'):
    config = folder.read_json(GOLDEN / part / 'config.json')
    only = 'decoder' if part == 'vae' else ''
    made = models.load(part, config, 'float32')
    want = folder.load(GOLDEN, part, only=only)
    assert made.module == want.module
    jax.tree.map(
      lambda a, b: np.testing.assert_equal(a.shape, b.shape),
      made.variables,
      want.variables,
    )
    for leaf in jax.tree.leaves(made.variables):
      assert np.isfinite(leaf).all()


@pytest.mark.long
def test_the_plain_way_gives_the_same_latents():
  fields = folder.read_json(GOLDEN / 'transformer' / 'config.json')
  model = models.load('transformer', fields, 'float32')
  pipe = jax_side._pipeline(transformer=model)
  module = model.module
  normal = lambda *shape: jax.random.normal(jax.random.key(sum(shape)), shape)
  noise = normal(2, 4, 4, module.in_channels)
  text, negative = (
    (normal(n, 16, module.caption_channels), np.ones((n, 16), bool))
    for n in (2, 1)
  )
  how = dict(steps=3, guidance=4.5)
  np.testing.assert_allclose(
    jax_side._plain_denoise(pipe, noise, text, negative, **how),
    pipe.denoise(noise, text, negative, **how),
    rtol=1e-4,
    atol=1e-4,
  )
