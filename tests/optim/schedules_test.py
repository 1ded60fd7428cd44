"""Learning rates at the steps where something happens."""

from ml_collections import ConfigDict
import numpy as np
import pytest

from sana_jax import optim
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast


def rates(steps, num_steps=1000, **settings):
  config = ConfigDict(dict(name='came', learning_rate=2.0, **settings))
  schedule = optim.schedule(config, num_steps)
  return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize(
  'settings, expected',
  [
    (
      dict(schedule='constant', warmup_steps=100),
      {0: 0.0, 50: 1.0, 100: 2.0, 999: 2.0},
    ),
    (dict(schedule='constant'), {0: 2.0, 5000: 2.0}),
    (
      dict(schedule='cosine', warmup_steps=200),
      {0: 0.0, 100: 1.0, 200: 2.0, 600: 1.0, 1000: 0.0},
    ),
    (
      dict(
        schedule='warmup_stable_decay', warmup_steps=100, decay_fraction=0.4
      ),
      {50: 1.0, 100: 2.0, 600: 2.0, 800: 1.0, 1000: 0.0},
    ),
    (
      dict(
        schedule='cosine_decay_to_constant',
        warmup_steps=100,
        decay_fraction=0.5,
        final_scale=0.25,
      ),
      {50: 1.0, 100: 2.0, 300: 1.25, 500: 0.5, 999: 0.5},
    ),
  ],
  ids=str,
)
def test_the_rate_is_right_where_it_turns(settings, expected):
  np.testing.assert_allclose(
    rates(expected, **settings), [*expected.values()], atol=1e-6
  )


@pytest.mark.parametrize(
  'settings',
  [
    dict(schedule='cosine', warmup_steps=1000),
    dict(schedule='warmup_stable_decay', warmup_steps=900),
  ],
  ids=str,
)
def test_a_warmup_that_does_not_fit_is_refused(settings):
  with pytest.raises(UserError) as caught:
    rates([0], **settings)
  assert caught.value.key == 'optimizer.warmup_steps'
  assert caught.value.value == settings['warmup_steps']
