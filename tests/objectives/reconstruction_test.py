"""Who trains what in a reconstruction, and what it needs besides."""

import jax
import pytest

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.models import lpips
from sana_jax.optim import freezing

pytestmark = pytest.mark.fast


@pytest.fixture
def config():
  found = base.train('dc_ae').unlock()
  found.model = base.dc_ae_fields(
    latent_channels=4, widths=(8, 32), depths=(0, 1), attention_stages=1
  )
  found.data.size_px = 32
  return found


def test_one_player_trains_all_without_a_discriminator(config):
  objective = tasks.objective(config)
  assert [(p.name, p.trains) for p in objective.players] == [('model', '')]
  assert objective.frozen() == {}
  assert objective.batch(3)['image'].shape == (3, 32, 32, 3)


def test_two_players_share_a_loss_and_no_parameter(config):
  config.loss.update(gan=0.1, gan_every=2)
  objective = tasks.objective(config)
  model, other = objective.players
  assert model.loss is other.loss
  assert (model.optimizer, other.optimizer) == ('optimizer', 'discriminator')
  assert (model.every, other.every) == (1, 2)
  params = jax.eval_shape(objective.init, jax.random.key(0))
  own = [set(freezing.split(params, p.trains)[0]) for p in (model, other)]
  assert own == [{'encoder', 'decoder'}, {'discriminator'}]


def test_frozen_arrays_are_described_as_they_are_loaded(config):
  config.loss.lpips = 1.0
  found = tasks.objective(config).frozen()['lpips']
  assert found == jax.eval_shape(lpips.init, jax.random.key(0))
