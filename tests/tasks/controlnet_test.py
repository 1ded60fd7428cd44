"""The ControlNet task: its start, its first step, its files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax import tasks
from sana_jax.configs import shapes_controlnet
from sana_jax.errors import UserError
from sana_jax.models.controlnet import first_params
from sana_jax.models.sana import Sana
from sana_jax.objectives import flow_matching
from sana_jax.sharding import rules, tables
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import common
from sana_jax.tasks.controlnet import base as bases
from sana_jax.tree import leaves

TOKENS = 5
VARIANTS = pytest.mark.parametrize(
  'wiring, norm',
  [('diffusers', False), ('official', False), ('diffusers', True)],
)


def config_of(**changes):
  config = shapes_controlnet.get_config()
  config.model.update(
    width=16,
    depth=3,
    cross_heads=2,
    head_dim=8,
    in_channels=3,
    out_channels=3,
    caption_channels=6,
    sample_size=2,
    unroll=1,
  )
  config.inputs.text_length = TOKENS
  config.flow.caption_dropout = 0.5
  config.controlnet.update(depth=2, **changes)
  return config


def arrays(tree, seed=0):
  """Random values of the described shapes; true for masks."""
  rng = np.random.default_rng(seed)

  def one(x):
    if x.dtype == jnp.bool_:
      return jnp.ones(x.shape, bool)
    return jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype)

  return jax.tree.map(one, tree)


def normed(norm, **changes):
  config = config_of(**changes)
  config.model.update(qk_norm=norm, cross_norm=norm)
  return config


@functools.cache
def parts(wiring='diffusers', norm=False):
  """(objective, params at step 0, frozen, batch, rngs)."""
  objective = tasks.objective(normed(norm, wiring=wiring))
  frozen = arrays(objective.frozen())
  params = first_params(frozen['base'], 2)
  rngs = jax.random.split(jax.random.key(3), 4)
  return objective, params, frozen, arrays(objective.batch(4), 1), rngs


def loss(objective, params, frozen, batch, rngs):
  return objective.loss(params, frozen, batch, rngs, 0)[0]


@pytest.mark.long
@VARIANTS
def test_the_loss_of_step_0_is_that_of_the_base_to_the_bit(wiring, norm):
  objective, params, frozen, batch, rngs = parts(wiring, norm)
  config = normed(norm)
  base = common.build(Sana, config)
  plain = lambda frozen, batch: flow_matching.flow_loss(
    base,
    config.flow,
    frozen['base'],
    None,
    frozen,
    batch,
    rngs,
  )[0]
  without = {k: x for k, x in batch.items() if k != 'control'}
  got = jax.jit(functools.partial(loss, objective))(params, frozen, batch, rngs)
  assert got == jax.jit(plain)(frozen, without)


@pytest.mark.long
@VARIANTS
def test_in_the_first_step_only_the_zero_layers_behind_blocks_have_a_gradient(
  wiring, norm
):
  objective, *args = parts(wiring, norm)
  grads = jax.jit(jax.grad(functools.partial(loss, objective)))(*args)
  moved = {name for name, g in leaves(grads).items() if np.any(g)}
  assert moved == {'blocks/output/kernel', 'blocks/output/bias'}


@pytest.mark.long
@pytest.mark.parametrize('norm', [False, True])
def test_after_that_every_parameter_has_a_gradient(norm):
  objective, params, *args = parts(norm=norm)
  random = arrays(jax.eval_shape(lambda: params), 5)
  grads = jax.jit(jax.grad(functools.partial(loss, objective)))(random, *args)
  still = {name for name, g in leaves(grads).items() if not np.any(g)}
  # The last block's output is unused: the base has three blocks.
  assert still <= {'blocks/self_attention/key/bias'}
  assert np.any(grads['input']['kernel'])


@pytest.mark.long
def test_the_loss_depends_on_the_control_and_not_on_other_rows():
  objective, params, frozen, batch, rngs = parts()
  random = arrays(jax.eval_shape(lambda: params), 5)
  run = jax.jit(functools.partial(loss, objective, random, frozen))
  other = batch | {'control': batch['control'][::-1]}
  assert run(batch, rngs) != run(other, rngs)


def test_the_table_covers_what_trains_and_the_base():
  objective, params, frozen, *_ = parts()
  mesh = make_mesh({'data': -1})
  rules.shardings(params, objective.rules, mesh)
  rules.shardings(frozen['base'], objective.frozen_rules['base'], mesh)
  assert objective.rules == tables.CONTROLNET_TRAINED


def test_initial_parameters_have_the_shapes_of_a_start():
  objective, params, *_ = parts()
  shapes = jax.eval_shape(objective.init, jax.random.key(0))
  assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, params)


@pytest.mark.parametrize(
  'key, change',
  [
    ('controlnet.depth', lambda config: config.controlnet.update(depth=4)),
    ('cross_norm', lambda config: config.model.update(qk_norm=True)),
    (
      'model.guidance_embeds',
      lambda config: config.model.update(guidance_embeds=True),
    ),
  ],
)
def test_a_base_that_no_net_fits_is_refused(key, change):
  config = config_of()
  with config.unlocked():
    change(config)
  with pytest.raises(UserError) as error:
    tasks.objective(config)
  assert error.value.key == key


def test_a_run_needs_a_base():
  config = config_of()
  config.init_from = ''
  with pytest.raises(UserError) as error:
    bases.name_of(config)
  assert error.value.key == 'init_from'
