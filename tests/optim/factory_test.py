"""Optimizers by name."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from sana_jax import config as base
from sana_jax import optim
from sana_jax.errors import UserError
from sana_jax.optim import factory, optimizers, schedules
from sana_jax.optim.keys import KEYS

NAMES = (
  'came',
  'came_8bit',
  'came_8bit_rows',
  'adamw',
  'muon',
  'adafactor',
  'lion',
)
SHAPES = {
  'blocks': {
    'value': {'kernel': (2, 6, 4), 'bias': (2, 4)},
    'depthwise': {'kernel': (2, 3, 3, 4)},
  },
  'conv': {'kernel': (3, 3, 4, 6)},
  'table': (6, 4),
}


def config(**settings):
  return ConfigDict(
    {'name': 'adamw', 'learning_rate': 0.1, 'clip_norm': 0.0, **settings}
  )


def make(num_steps=100, **settings):
  return optim.make(config(**settings), num_steps)


def normal(seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
  )


@pytest.mark.parametrize('name', NAMES)
def test_every_optimizer_descends_and_decays_by_the_rate(name):
  params, grads = normal(0), normal(1)
  plain, decayed = (make(name=name, weight_decay=w) for w in (0.0, 0.5))
  update = lambda tx: jax.jit(lambda g: tx.update(g, tx.init(params), params))(
    grads
  )[0]
  step, decayed = update(plain), update(decayed)
  step, decayed, grads, params = jax.device_get((step, decayed, grads, params))
  assert sum(map(np.vdot, jax.tree.leaves(step), jax.tree.leaves(grads))) < 0
  jax.tree.map(
    lambda u, w, p: np.testing.assert_allclose(
      u, w - 0.1 * 0.5 * p, rtol=1e-4, atol=1e-5
    ),
    decayed,
    step,
    params,
  )


def test_muon_orthogonalises_layers_and_flattened_convolutions():
  # Newton-Schulz brings singular values to about 1 (0.7 to 1.2), and the root
  # mean square to 0.2. The first step of adam with Nesterov's momentum is the
  # rate times the sign times b1 (1 - b1) / (1 - b1^2) + 1.
  params, grads = normal(0), normal(1)
  tx = make(name='muon', learning_rate=1.0)
  updates, _ = jax.jit(lambda g: tx.update(g, tx.init(params), params))(grads)
  updates = jax.device_get(updates)
  matrices = [
    *updates['blocks']['value']['kernel'],
    updates['conv']['kernel'].reshape(36, 6),
  ]
  for u in matrices:
    s = np.linalg.svd(u, compute_uv=False) / (0.2 * max(u.shape) ** 0.5)
    assert s.min() > 0.6 and s.max() < 1.25, s
  for path in (('table',), ('blocks', 'depthwise', 'kernel')):
    u, g = updates, grads
    for key in path:
      u, g = u[key], g[key]
    np.testing.assert_allclose(np.abs(u), 0.09 / 0.19 + 1, rtol=1e-3)
    np.testing.assert_array_equal(np.sign(u), -np.sign(g))


def test_muon_takes_kernels_only():
  dimensions = optimizers.muon_dimensions(normal())
  assert dimensions['blocks']['value'] == {
    'kernel': optax.contrib.MuonDimensionNumbers((1,), 2),
    'bias': None,
  }
  assert dimensions['conv']['kernel'] == (
    optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
  )
  assert dimensions['blocks']['depthwise']['kernel'] is None
  assert dimensions['table'] is None


def test_the_whole_gradient_is_clipped_first():
  tx = make(name='lion', b1=0.0, b2=0.0, clip_norm=0.5)
  state = tx.init({'a': jnp.zeros(2), 'b': jnp.zeros(2)})
  grads = {'a': jnp.array([3.0, 0.0]), 'b': jnp.array([0.0, 4.0])}
  _, state = tx.update(grads, state, grads)
  # Lion's momentum with b2 = 0 is the gradient that it was given.
  mu = optax.tree.get(state, 'mu')
  np.testing.assert_allclose(mu['a'], [0.3, 0.0], rtol=1e-6)
  np.testing.assert_allclose(mu['b'], [0.0, 0.4], rtol=1e-6)


def test_the_rate_follows_the_schedule():
  tx = make(name='lion', schedule='constant', warmup_steps=2)
  params = state = jnp.ones(1)
  state, steps = tx.init(params), []
  for _ in range(4):
    updates, state = tx.update(params, state, params)
    steps.append(updates.item())
  np.testing.assert_allclose(steps, [0.0, -0.05, -0.1, -0.1], rtol=1e-6)


@pytest.mark.parametrize(
  'rule, batch_size, rate',
  [
    ('', 1024, 0.1),
    ('sqrt', 256, 0.1),
    ('sqrt', 1024, 0.2),
    ('sqrt', 64, 0.05),
    ('linear', 256, 0.1),
    ('linear', 1024, 0.4),
    ('linear', 64, 0.025),
  ],
)
def test_the_rate_follows_the_batch_as_published(rule, batch_size, rate):
  settings = config(name='lion', auto_lr=rule)
  schedule = optim.schedule(settings, 100, batch_size)
  assert float(schedule(5)) == pytest.approx(rate)
  tx = optim.make(settings, 100, batch_size)
  updates, _ = tx.update(jnp.ones(1), tx.init(jnp.ones(1)), jnp.ones(1))
  np.testing.assert_allclose(updates, [-rate], rtol=1e-6)
  assert settings.learning_rate == 0.1  # The config is not changed.


def test_8_bit_came_has_blocks_of_elements_or_of_rows():
  params = {'kernel': jnp.zeros((40, 4096))}
  elements, rows = (
    make(name=name).init(params)[0].mu['kernel']
    for name in ('came_8bit', 'came_8bit_rows')
  )
  assert elements.low.shape == (40, 2) and rows.low.shape == (1, 2)


@pytest.mark.parametrize(
  'key, value, allowed',
  [
    ('name', 'sgdd', tuple(optimizers.OPTIMIZERS)),
    ('momentum', 0.9, tuple(KEYS)),
    ('learning_rate', 0.0, 'positive'),
    ('learning_rate', '1e-4', 'a number'),
    ('auto_lr', 'cubic', ('', 'sqrt', 'linear')),
    ('schedule', 'step', tuple(schedules.SCHEDULES)),
    ('warmup_steps', -1, 'zero or more'),
    ('clip_norm', -1.0, 'zero or more'),
    ('b1', 1.0, 'at least 0 and less than 1'),
    ('decay_fraction', 1.5, 'more than 0 and at most 1'),
  ],
)
def test_a_bad_value_is_refused_by_its_key(key, value, allowed):
  with pytest.raises(UserError) as caught:
    make(**{key: value})
  assert caught.value.key == f'optimizer.{key}'
  assert caught.value.allowed == allowed


def test_what_a_config_leaves_out_is_at_the_defaults_of_the_table():
  assert dict(factory.complete(ConfigDict())) == {
    name: key.default for name, key in KEYS.items()
  }
  assert dict(base.train('sana').optimizer) == dict(
    factory.complete(ConfigDict())
  )


@pytest.mark.long
@pytest.mark.parametrize(
  'settings, plain',
  [
    (
      dict(name='adamw', eps=1e-2),
      lambda: optax.adamw(0.1, weight_decay=0.0, eps=1e-2),
    ),
    (
      dict(name='adafactor', eps=1e-2),
      lambda: optax.adafactor(
        0.1, multiply_by_parameter_scale=False, momentum=0.9, eps=1e-2
      ),
    ),
    (
      dict(name='muon', eps=1e-2),
      lambda: optax.contrib.muon(
        0.1,
        consistent_rms=0.2,
        eps=1e-2,
        muon_weight_dimension_numbers=optimizers.muon_dimensions,
      ),
    ),
    (
      dict(name='came', eps=1e-2, b3=0.5),
      lambda: optim.came(0.1, eps1=1e-2, b3=0.5),
    ),
    (
      dict(name='came_8bit', eps=1e-2, b3=0.5),
      lambda: optim.came_8bit(0.1, eps1=1e-2, b3=0.5),
    ),
  ],
  ids=['adamw', 'adafactor', 'muon', 'came', '8'],
)
def test_eps_and_b3_are_those_of_the_optimizer(settings, plain):
  params = normal(0)
  updates = []
  for tx in (make(**settings), plain(), make(name=settings['name'])):
    state = tx.init(params)
    for seed in (1, 2):
      step, state = tx.update(normal(seed), state, params)
    updates.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(step)]))
  np.testing.assert_array_equal(updates[0], updates[1])
  assert np.linalg.norm(updates[0] - updates[2]) > 1e-3


@pytest.mark.parametrize(
  'name, key',
  [
    ('lion', 'eps'),
    ('lion', 'b3'),
    ('adamw', 'b3'),
    ('muon', 'b3'),
    ('adafactor', 'b3'),
  ],
)
def test_a_setting_that_an_optimizer_lacks_is_refused(name, key):
  make(name=name, **{key: 0.0})
  with pytest.raises(UserError) as caught:
    make(name=name, **{key: 0.5})
  assert (caught.value.key, caught.value.value) == (f'optimizer.{key}', 0.5)
