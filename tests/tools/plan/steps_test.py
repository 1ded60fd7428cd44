"""The step of any task is described without its data and weights."""

import jax
import pytest

from sana_jax import tasks
from sana_jax.errors import UserError
from sana_jax.launch.config_files import load_config
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.plan import steps
from sana_jax.training.step import train_step
from sana_jax.training.throughput import StepFlops


def config_of(name):
  config = load_config(name).unlock()
  config.batch_size = 8
  if config.task == 'text_encoder':
    config.model.depth = 1
  return config


@pytest.mark.long
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


@pytest.mark.long
def test_a_plan_counts_the_flops_that_training_counts():
  config = config_of('dc_ae_f32c32_phase3:runlocal')
  objective, mesh = tasks.objective(config), make_mesh({'data': 8})
  training = StepFlops(
    objective, objective.frozen(), steps.plan(config, mesh), config.batch_size
  )
  counted = training(objective.batch(config.batch_size), steps=0)
  assert steps.model_flops(config) == counted


@pytest.mark.long
def test_frozen_networks_cost_a_plan_no_gradient():
  # The decoder's head trains; the encoder and the rest of the decoder only run.
  config = config_of('dc_ae_f32c32_phase3:runlocal')
  forward = 8 * steps.forward_flops(config)
  assert forward < steps.model_flops(config) < 3 * forward


@pytest.mark.long
def test_a_model_that_trains_whole_costs_three_forward_passes():
  # But for the gradient of its inputs, which nothing needs.
  config = config_of('sana_600m_512')
  forward = 8 * steps.forward_flops(config)
  patches, time = 2 * 16**2 * 32 * 1152, 2 * 256 * 1152
  text = 2 * config.inputs.text_length * 2304 * 1152
  inputs = 8 * (patches + time + text)
  assert steps.model_flops(config) == 3 * forward - inputs
  config.model.remat = 'full'
  assert steps.run_flops(config) == steps.model_flops(config) + forward


@pytest.mark.long
def test_the_step_that_updates_the_most_networks_is_planned():
  config = config_of('dc_ae_f32c32_phase3:runlocal')
  config.loss.gan_every = 2
  mesh = make_mesh({'data': 8})
  program = steps.make(config, mesh)
  with jax.set_mesh(mesh):
    _, metrics = jax.eval_shape(program.jitted, *program.args)
  assert {'grad_norm/decoder', 'grad_norm/discriminator'} <= set(metrics)


@pytest.mark.long
def test_a_sprint_is_planned_with_one_evaluation_a_step():
  config, mesh = config_of('sana_600m_512:runlocal'), make_mesh({'data': 8})
  config.sampling.update(sampler='scm', steps=2)
  guided = steps.model_flops(config, 'sample')
  config.model.guidance_embeds = True
  assert guided == 2 * steps.model_flops(config, 'sample')
  program = steps.make(config, mesh, 'sample')
  with jax.set_mesh(mesh):
    assert program.lower().out_info.shape == program.args[2].shape


def test_a_task_without_a_sampler_is_an_error():
  with pytest.raises(UserError) as error:
    steps.make(
      config_of('shapes_text_encoder'), make_mesh({'data': 8}), 'sample'
    )
  assert (error.value.key, error.value.value) == ('task', 'text_encoder')
  assert error.value.allowed == ('sana', 'sprint')


@pytest.mark.parametrize('name', ['shapes_nft', 'shapes_dpo'])
def test_a_sampler_of_adapters_is_that_of_the_task_sana(name):
  with pytest.raises(UserError) as error:
    steps.make(config_of(name), make_mesh({'data': 8}), 'sample')
  assert error.value.key == 'task' and 'sana' in error.value.allowed
