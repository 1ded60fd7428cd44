"""Two players in one backward pass move as in two passes of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models import patchgan
from sana_jax.objectives import adversarial

DISCRIMINATOR = patchgan.PatchGAN()
WEIGHT = 0.3


def generate(model, seeds):
  """The smallest generator: what it makes depends on each parameter."""
  return jnp.tanh(seeds * model['scale'] + model['bias'])


@pytest.fixture(scope='module')
def drawn():
  """(params, real images, seeds); the discriminator has narrow layers."""
  keys = jax.random.split(jax.random.key(0), 3)
  real = jax.random.normal(keys[0], (2, 24, 24, 3))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(patchgan, 'WIDTHS', (4, 6, 8, 10))
    params = jax.jit(DISCRIMINATOR.init)(keys[1], real)['params']
    # Scores on both sides of the hinge: otherwise the two halves of the last
    # bias' gradient cancel.
    params['conv_out']['kernel'] *= 50.0
    yield (
      {
        'model': {'scale': jnp.asarray([0.5, 1.0, 2.0]), 'bias': jnp.ones(3)},
        'discriminator': params,
      },
      real,
      jax.random.normal(keys[2], real.shape),
    )


@jax.jit
def both(params, real, seeds, weight):
  """Gradient of both players in one pass."""
  return jax.grad(
    lambda p: adversarial.both_players(
      DISCRIMINATOR,
      p['discriminator'],
      real,
      generate(p['model'], seeds),
      weight,
    )[0]
  )(params)


def score(params, images):
  return DISCRIMINATOR.apply({'params': params}, images)


@pytest.mark.long
def test_one_pass_gives_both_gradients(drawn):
  params, real, seeds = drawn

  @jax.jit
  def apart(params):
    """Each player's textbook loss, by that player's parameters alone."""
    persuade = lambda model: (
      -WEIGHT * jnp.mean(score(params['discriminator'], generate(model, seeds)))
    )
    fake = generate(params['model'], seeds)
    judge = lambda discriminator: (
      (
        jnp.mean(jnp.maximum(0, 1 - score(discriminator, real)))
        + jnp.mean(jnp.maximum(0, 1 + score(discriminator, fake)))
      )
      / 2
    )
    return {
      'model': jax.grad(persuade)(params['model']),
      'discriminator': jax.grad(judge)(params['discriminator']),
    }

  got, want = both(params, real, seeds, WEIGHT), apart(params)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for (path, g), w in zip(
    jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want)
  ):
    size = float(jnp.max(jnp.abs(w)))
    assert size > 0, path
    np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5 * size)


def test_the_discriminator_learns_with_a_weight_of_zero(drawn):
  params, real, seeds = drawn
  grads = both(params, real, seeds, 0.0)
  assert not any(np.any(x) for x in jax.tree.leaves(grads['model']))
  assert all(np.any(x) for x in jax.tree.leaves(grads['discriminator']))


@pytest.mark.parametrize(
  'real, fake, loss',
  [
    (2.0, -2.0, 0.0),
    (1.0, -1.0, 0.0),
    (0.0, 0.0, 1.0),
    (-1.0, 1.0, 2.0),
    (3.0, 1.0, 1.0),
  ],
)
def test_the_hinge_is_zero_for_real_above_1_and_fake_below_minus_1(
  real, fake, loss
):
  of = lambda value: jnp.full((2, 3, 3), value)
  assert adversarial.hinge(of(real), of(fake)) == loss
