"""The step of any task is described without its data and weights."""

import jax
import pytest

from sana_jax.errors import UserError
from sana_jax.launch.config_files import load_config
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.plan import steps
from sana_jax.training.step import train_step


def config_of(name):
  config = load_config(name).unlock()
  config.batch_size = 8
  return config


@pytest.mark.parametrize(
  'name, players',
  [
    ('sana_600m_512:runlocal', ['model']),
    ('shapes_text_encoder:quick', ['model']),
    ('dc_ae_f32c32_phase2:runlocal', ['model']),
    ('dc_ae_f32c32_phase3:runlocal', ['model', 'discriminator']),
  ],
)
def test_the_step_of_a_task_can_be_lowered(name, players):
  config, mesh = config_of(name), make_mesh({'data': 2, 'fsdp': 4})
  program = steps.make(config, mesh)
  assert set(program.args[0].players) == set(players)
  with jax.set_mesh(mesh):
    _, metrics = jax.eval_shape(program.jitted, *program.args)
    assert train_step.__name__ in program.lower().as_text()
  assert metrics['loss'].shape == ()
  base = steps.plan(config, mesh).base
  assert bool(base) == bool(config.trainable)
  assert steps.forward_flops(config) > 0


def test_the_step_that_updates_the_most_networks_is_planned():
  config = config_of('dc_ae_f32c32_phase3:runlocal')
  config.loss.gan_every = 2
  mesh = make_mesh({'data': 8})
  program = steps.make(config, mesh)
  with jax.set_mesh(mesh):
    _, metrics = jax.eval_shape(program.jitted, *program.args)
  assert {'grad_norm/decoder', 'grad_norm/discriminator'} <= set(metrics)


def test_a_task_without_a_sampler_is_an_error():
  with pytest.raises(UserError, match="task='text_encoder' has no sampler"):
    steps.make(
      config_of('shapes_text_encoder'), make_mesh({'data': 8}), 'sample'
    )
