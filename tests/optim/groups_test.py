"""Groups of parameters: their rates, decays and clips, in closed form."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from sana_jax import optim
from sana_jax.errors import UserError
from sana_jax.optim import groups, optimizers
from sana_jax.sharding import rules
from sana_jax.sharding.mesh import make_mesh

pytestmark = pytest.mark.fast

PARAMS = {
  'blocks': {'query': {'kernel': (2, 8, 8), 'bias': (2, 8)}},
  'head': {'kernel': (8, 4), 'bias': (4,)},
}


def make(text, num_steps=100, **settings):
  return optim.make(
    ConfigDict(
      {
        'name': 'adamw',
        'learning_rate': 0.1,
        'clip_norm': 0.0,
        'groups': text,
        **settings,
      }
    ),
    num_steps,
  )


def normal(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32),
    PARAMS,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def updates(tx, steps=3, scale=1.0):
  """The last of a few updates."""
  params = normal(0)
  state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
  for seed in range(1, steps + 1):
    step, state = update(normal(seed, scale), state, params)
  return jax.device_get(step)


@pytest.mark.long
@pytest.mark.parametrize('name', optimizers.OPTIMIZERS)
def test_a_group_has_its_rate_and_decay_with_every_optimizer(name):
  text = 'head/.*:rate_scale=0.5,weight_decay=0 blocks/.*:weight_decay=0.2'
  got = updates(make(text, name=name, weight_decay=0.1))
  plain, decayed = (
    updates(make('', name=name, weight_decay=w)) for w in (0.0, 0.2)
  )
  check = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  jax.tree.map(
    check, got['head'], jax.tree.map(lambda u: 0.5 * u, plain['head'])
  )
  jax.tree.map(check, got['blocks'], decayed['blocks'])


def test_unmatched_parameters_have_the_settings_of_the_run():
  got = updates(make('head/bias:rate_scale=0', weight_decay=0.1))
  plain = updates(make('', weight_decay=0.1))
  assert not np.any(got['head'].pop('bias'))
  plain['head'].pop('bias')
  jax.tree.map(np.testing.assert_array_equal, got, plain)


def test_the_first_pattern_that_matches_counts():
  text = 'head/bias:rate_scale=2 .*/bias:rate_scale=3 .*:rate_scale=5'
  labels = groups.labels(groups.parse(text), normal(0))
  assert labels == {
    'blocks': {'query': {'kernel': 2, 'bias': 1}},
    'head': {'kernel': 2, 'bias': 0},
  }
  got, plain = updates(make(text)), updates(make(''))
  for path, scale in (
    (('head', 'bias'), 2),
    (('blocks', 'query', 'bias'), 3),
    (('head', 'kernel'), 5),
  ):
    mine, theirs = got, plain
    for part in path:
      mine, theirs = mine[part], theirs[part]
    np.testing.assert_allclose(mine, scale * theirs, rtol=1e-5)


def test_the_rate_follows_the_schedule_of_the_run():
  params = {'head': jnp.ones(1), 'x': jnp.ones(1)}
  tx = optim.make(
    ConfigDict(
      dict(
        name='lion',
        learning_rate=0.1,
        clip_norm=0.0,
        warmup_steps=2,
        groups='head:rate_scale=0.5',
      )
    ),
    100,
  )
  state, steps = tx.init(params), []
  for _ in range(3):
    step, state = tx.update(params, state, params)
    steps.append((step['x'].item(), step['head'].item()))
  np.testing.assert_allclose(
    steps, [(0.0, 0.0), (-0.05, -0.025), (-0.1, -0.05)], rtol=1e-6
  )


def clipped(text, clip_norm):
  """The gradient that an optimizer is given: lion's momentum with b2 = 0."""
  params = {name: jnp.zeros(1) for name in 'abc'}
  tx = make(text, name='lion', b2=0.0, clip_norm=clip_norm)
  grads = {'a': np.float32([3]), 'b': np.float32([4]), 'c': np.float32([12])}
  _, state = jax.jit(lambda g: tx.update(g, tx.init(params), params))(grads)
  kept = [x for x in jax.tree.leaves(state) if x.shape == (1,)]
  return sorted(abs(x.item()) for x in kept)


@pytest.mark.parametrize(
  'text, clip_norm, norms',
  [
    # One norm of 13 for all.
    ('a:rate_scale=2', 1.3, [0.3, 0.4, 1.2]),
    # Its own of 12; the two others' is 5.
    ('c:clip_norm=6', 0.5, [0.3, 0.4, 6.0]),
    ('c:clip_norm=0', 0.5, [0.3, 0.4, 12.0]),
    ('c:clip_norm=6', 0.0, [3.0, 4.0, 6.0]),
    # A group's own norm is over its parameters together.
    ('a|b:clip_norm=0.5', 1.2, [0.3, 0.4, 1.2]),
  ],
)
def test_a_group_with_a_clip_is_clipped_by_its_own_norm(text, clip_norm, norms):
  np.testing.assert_allclose(clipped(text, clip_norm), norms, rtol=1e-6)


def test_moments_of_groups_lie_like_their_parameters():
  mesh = make_mesh({'data': 2, 'fsdp': 4})
  params = normal(0)
  places = rules.shardings(params, [('.*', ())], mesh) | {
    'head': rules.shardings(params['head'], [('.*', ('fsdp',))], mesh)
  }
  state = rules.state_shardings(
    make('head/.*:rate_scale=2'), params, places, mesh
  )
  specs = [x.spec for x in jax.tree.leaves(state)]
  assert specs.count(jax.P('fsdp')) == 4  # Two moments of two parameters.


@pytest.mark.parametrize(
  'text, value',
  [
    *(
      (x, x)
      for x in (
        'head',
        'head/.*:',
        ':rate_scale=1',
        '(:rate_scale=1',
        'x:rate=1',
        'x:rate_scale',
        'x:rate_scale=fast',
        'x:rate_scale=-1',
        'x:clip_norm=nan',
      )
    ),
    ('.*:rate_scale=1 y:weight_decay=inf', 'y:weight_decay=inf'),
  ],
)
def test_an_invalid_text_is_refused_with_its_entry(text, value):
  with pytest.raises(UserError) as caught:
    make(text)
  assert caught.value.key == 'optimizer.groups' and caught.value.value == value


def test_the_nearest_setting_is_suggested():
  with pytest.raises(UserError, match=r'clip_norm\?'):
    groups.parse('x:clip=1')


@pytest.mark.parametrize(
  'text, unused',
  [
    ('head:rate_scale=2', 'head'),
    ('.*:rate_scale=2 head/.*:rate_scale=3', 'head/.*'),
    ('x:rate_scale=2 head/.*:rate_scale=3 y:rate_scale=1', 'x y'),
  ],
)
def test_a_pattern_that_matches_nothing_is_refused(text, unused):
  tx = make(text)
  for init in (tx.init, lambda params: jax.eval_shape(tx.init, params)):
    with pytest.raises(UserError) as caught:
      init(normal(0))
    assert caught.value.key == 'optimizer.groups'
    assert caught.value.value == unused


def test_a_pattern_may_have_colons_and_commas():
  (group,) = groups.parse('(?:a|b)x{1,2}:rate_scale=2,clip_norm=1')
  assert group.pattern.pattern == '(?:a|b)x{1,2}'
  assert group[1:] == (2.0, None, 1.0)
