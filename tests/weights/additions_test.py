"""Parts added to a trained transformer change its output as documented."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion.denoiser import Denoiser
from sana_jax.errors import UserError
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.sharding import rules, tables
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tree import leaves
from sana_jax.weights import additions, hub
from sana_jax.weights import folder as folders

pytestmark = pytest.mark.fast

TEACHER = dict(qk_norm=True, cross_norm=True, timestep_scale=0.001)
TIMES = jnp.array([0.02, 0.1, 0.25, 0.4, 0.6, 0.75, 0.9, 1.0])


@functools.cache
def shipped():
  """The module and parameters of the shipped model."""
  model = folders.load(hub.find('shapes'), 'transformer')
  return model.module, model.variables['params']


def adapted(seed=0, **fields):
  source, params = shipped()
  target = source.clone(**fields)
  return target, additions.adapted(params, source, target, jax.random.key(seed))


def velocity(module, params, guidance=None):
  """Velocities of the same inputs at TIMES."""
  x, text = jax.random.key(1), jax.random.key(2)
  x = jax.random.normal(x, (8, 2, 2, module.in_channels))
  text = jax.random.normal(text, (8, 6, module.caption_channels))
  denoiser = Denoiser(module)
  condition = denoiser.condition(params, text, None, guidance)
  return denoiser(params, x, TIMES, condition).velocity()


@pytest.mark.long
def test_the_result_is_the_targets_tree():
  target, params = adapted(guidance_embeds=True, **TEACHER)
  describe = lambda x: (x.shape, x.dtype)
  assert jax.tree.map(describe, params) == jax.tree.map(
    describe, abstract.transformer(target)
  )


def test_all_other_leaves_are_passed_through():
  _, params = adapted(guidance_embeds=True, **TEACHER)
  old, new = leaves(shipped()[1]), leaves(params)
  changed = {name for name, x in new.items() if x is not old.get(name)}
  assert changed == {
    *(
      f'time_embed/{part}/linear{i}/{leaf}'
      for part in ('timestep', 'guidance')
      for i in (1, 2)
      for leaf in ('kernel', 'bias')
    ),
    *(
      f'blocks/{part}_attention/{side}_norm/scale'
      for part in ('self', 'cross')
      for side in ('query', 'key')
    ),
  }


@pytest.mark.long
@pytest.mark.parametrize('scale', [0.0, 4.5])
def test_guidance_leaves_the_velocity_the_same_to_the_bit(scale):
  before = velocity(*shipped())
  target, params = adapted(guidance_embeds=True)
  np.testing.assert_array_equal(velocity(target, params, scale), before)


def test_the_guidance_embedding_can_be_trained():
  # Its last layer is 0, so its gradient needs a hidden layer that is not.
  _, params = adapted(guidance_embeds=True)
  guidance = params['time_embed']['guidance']
  assert not any(map(np.any, jax.tree.leaves(guidance['linear2'])))
  assert np.std(guidance['linear1']['kernel']) == pytest.approx(0.02, rel=0.05)


@pytest.mark.long
def test_dense_time_leaves_the_velocity_nearly_the_same():
  before = velocity(*shipped())
  after = velocity(*adapted(timestep_scale=0.001))
  norm = lambda v: jnp.sqrt(jnp.mean(v * v, axis=(1, 2, 3)))
  relative = norm(after - before) / norm(before)
  # Measured: .006 to .023.
  assert np.all(relative < 0.05)


@pytest.mark.long
def test_norms_are_those_of_a_fresh_model():
  # A source whose other parameters are initial ones, too.
  fields = dict(width=64, depth=2, cross_heads=2, in_channels=4, out_channels=4)
  source = Sana(**fields, caption_channels=8)
  target = source.clone(qk_norm=True, cross_norm=True)
  fresh = abstract.transformer_init(target)(jax.random.key(0))
  without = {
    name: x for name, x in leaves(fresh).items() if '_norm/scale' not in name
  }
  params = abstract.transformer_init(source)(jax.random.key(0))
  assert leaves(params).keys() == without.keys()
  new = leaves(additions.adapted(params, source, target, jax.random.key(1)))
  for name, x in leaves(fresh).items():
    if name not in without:
      np.testing.assert_array_equal(new[name], x)


@pytest.mark.long
def test_sharded_parameters_stay_and_new_ones_have_their_shards():
  source, params = shipped()
  mesh = make_mesh({'data': 1, 'fsdp': 4, 'tensor': 2})
  placed = jax.device_put(params, rules.shardings(params, tables.SANA, mesh))
  target, whole = adapted(guidance_embeds=True, **TEACHER)
  new = additions.adapted(placed, source, target, jax.random.key(0))
  assert new['patch_embed']['kernel'] is placed['patch_embed']['kernel']
  wanted = rules.shardings(new, tables.SANA, mesh)
  assert jax.tree.map(lambda x: x.sharding, new) == wanted
  norms = lambda tree: tree['blocks']['self_attention']['query_norm']
  np.testing.assert_array_equal(norms(new)['scale'], norms(whole)['scale'])
  # The sums over shards have another order.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-2),
    new['time_embed'],
    whole['time_embed'],
  )


@pytest.mark.long
def test_it_may_be_a_part_of_a_compiled_function():
  source, params = shipped()
  target, wanted = adapted(guidance_embeds=True, timestep_scale=0.001)
  both = jax.jit(
    lambda p: additions.adapted(p, source, target, jax.random.key(0))
  )(params)
  assert jax.tree.structure(both) == jax.tree.structure(wanted)
  fit = lambda p: p['time_embed']['timestep']['linear1']['bias']
  np.testing.assert_allclose(fit(both), fit(wanted), rtol=1e-4, atol=1e-3)


def test_new_parameters_have_the_dtype_of_the_others():
  source, params = shipped()
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  target = source.clone(**TEACHER)
  new = additions.adapted(params, source, target, jax.random.key(0))
  assert {x.dtype for x in jax.tree.leaves(new)} == {jnp.dtype('bfloat16')}


@pytest.mark.parametrize(
  'before, after, key',
  [
    ({}, {'width': 8}, 'width'),
    ({}, {'norm_eps': 1.0}, 'norm_eps'),
    ({'qk_norm': True}, {'qk_norm': False}, 'qk_norm'),
    ({'guidance_embeds': True}, {'guidance_embeds': False}, 'guidance_embeds'),
    (
      {'guidance_embeds': True},
      {'guidance_embeds_scale': 10.0},
      'guidance_embeds_scale',
    ),
  ],
)
def test_another_change_raises(before, after, key):
  source = shipped()[0].clone(**before)
  target = source.clone(**after)
  with pytest.raises(UserError) as error:
    additions.adapted({}, source, target, jax.random.key(0))
  assert (error.value.key, error.value.value) == (key, after[key])
  assert error.value.allowed == (getattr(source, key),)


def test_free_fields_and_the_scale_of_new_guidance_may_differ():
  source, _ = shipped()
  target = source.clone(
    remat='full',
    dtype=jnp.bfloat16,
    guidance_embeds=True,
    guidance_embeds_scale=10.0,
  )
  additions.check(source, target)
  assert additions.parts(source, target) == ('guidance_embeds',)
