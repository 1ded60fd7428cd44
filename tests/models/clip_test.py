"""Properties of CLIP that follow from its definition."""

import clip_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models.clip import CLIP, quick_gelu
from sana_jax.weights import clip as weights

FIELDS = weights.fields_from_transformers(clip_files.CONFIG)


@pytest.mark.fast
def test_quick_gelu_is_x_sigmoid_of_1_702_x():
  x = np.linspace(-4, 4, 9)
  want = x / (1 + np.exp(-1.702 * x))
  np.testing.assert_allclose(quick_gelu(jnp.asarray(x)), want, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize('eos', [521, None])
def test_tokens_after_the_end_of_a_text_do_not_matter(eos):
  module = CLIP(**FIELDS | {'eos_id': eos})
  ids = np.random.default_rng().integers(3, 500, (3, 20), np.int32)
  ids[:, 6] = 521
  params = jax.jit(module.init, static_argnames='method')(
    jax.random.key(0), ids, method='text_features'
  )
  apply = jax.jit(lambda ids: module.apply(params, ids, method='text_features'))
  other = ids.copy()
  other[:, 7:] = 1
  np.testing.assert_array_equal(apply(ids), apply(other))
  other[:, 5] += 1
  assert np.abs(apply(ids) - apply(other)).max() > 1e-4


@pytest.mark.fast
def test_the_score_is_the_scaled_cosine():
  """3-4-5 triangles: the cosine of (3, 4) and (4, 3) is 24 / 25."""
  module = CLIP(**FIELDS)
  params = {'params': {'logit_scale': jnp.log(100.0)}}
  images = jnp.array([[3.0, 4.0], [0.0, 2.0], [1.0, 1.0]])
  texts = jnp.array([[8.0, 6.0], [1.0, 0.0], [-5.0, -5.0]])
  got = module.apply(params, images, texts, method='score')
  np.testing.assert_allclose(got, [96, 0, -100], rtol=1e-6)
