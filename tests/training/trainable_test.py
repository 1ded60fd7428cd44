"""Training a part of a model: the rest is not touched, whatever the mesh."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

import sana_jax
from sana_jax.errors import UserError
from sana_jax.optim import factory, optimizers
from sana_jax.sharding.mesh import make_mesh
from sana_jax.training.step import gradients
from sana_jax.training.task import Start

# The optimizer moves by decay alone where there is no gradient.
DECAYING = {
  'name': 'adamw',
  'learning_rate': 1e-2,
  'weight_decay': 0.1,
  'clip_norm': 0.0,
}


def bits(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.fixture
def task(toy):
  """The toy with -0.0 in its parameters, which adding 0 would change."""

  class Negative(toy.Toy):
    def init(self, rng):
      params = super().init(rng)
      params['in']['bias'] = -params['in']['bias']
      return params

  return Negative()


@pytest.mark.long
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_frozen_parameters_stay_bit_for_bit(dtype, toy, task, tmp_path):
  state = toy.run(
    tmp_path,
    task,
    num_steps=3,
    trainable='out/.*',
    optimizer=DECAYING,
    param_dtype=dtype,
  )
  init = jax.jit(task.init)(jax.random.split(jax.random.key(0))[0])
  assert np.signbit(init['in']['bias']).all()
  with np.load(tmp_path / 'model/model.npz') as model:
    for name in ('kernel', 'bias'):  # Never rounded.
      assert (
        model[f'in_{name}'].tobytes() == np.asarray(init['in'][name]).tobytes()
      )
      assert not np.array_equal(model[f'out_{name}'], init['out'][name])
  assert set(state.params) == set(state.ema) == {'out'}


@pytest.mark.long
def test_the_rest_moves_as_if_it_were_alone(toy, task):
  """`in` as a frozen array of the loss."""

  class Alone(type(task)):
    rules = [('out/kernel', (None, 'fsdp')), ('out/bias', ())]

    def __init__(self):
      super().__init__()
      whole = jax.jit(super().init)(jax.random.split(jax.random.key(0))[0])
      self.start = whole.pop('out')
      self.frozen = {**self.frozen, **whole}

    def init(self, rng):
      return {'out': self.start}

    def loss(self, params, frozen, *args):
      return super().loss({'in': frozen['in'], **params}, frozen, *args)

  changes = dict(
    num_steps=3, optimizer={**DECAYING, 'clip_norm': 0.5}, accumulate_steps=2
  )
  *_, (part, _) = toy.steps(task, trainable='out/.*', **changes)
  *_, (alone, _) = toy.steps(Alone(), **changes)
  for got, want in zip(
    jax.tree.leaves((part.params, part.players)),
    jax.tree.leaves((alone.params, alone.players)),
    strict=True,
  ):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


@pytest.mark.long
def test_a_resumed_part_is_the_uninterrupted_part(toy, task, tmp_path):
  changes = dict(
    num_steps=4,
    checkpoint_every_steps=2,
    trainable='out/.*',
    optimizer={**DECAYING, 'name': 'came'},
  )
  whole = toy.run(tmp_path / 'whole', task, **changes)
  assert bits(whole) == bits(
    toy.resume(tmp_path / 'whole', tmp_path / 'cut', 2, task, **changes)
  )


@pytest.mark.parametrize('name', optimizers.OPTIMIZERS)
def test_every_optimizer_keeps_state_only_of_trainable_parameters(name, toy):
  mesh = make_mesh({'data': 2, 'fsdp': 4})
  tx = factory.make(
    ml_collections.ConfigDict(
      {'name': name, 'learning_rate': 1.0, 'clip_norm': 1.0}
    ),
    9,
  )
  planned = toy.planned(mesh, tx, trainable='out/kernel')
  found = planned.state.players['model'].opt_state
  params = {'out': {'kernel': jax.ShapeDtypeStruct((32, 8), 'float32')}}
  wanted = jax.eval_shape(tx.init, params)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == (
    jax.tree.map(lambda x: (x.shape, x.dtype), wanted)
  )
  for leaf in jax.tree.leaves(found):
    split = jax.P(None, 'fsdp') if leaf.shape == (32, 8) else jax.P()
    assert leaf.sharding.spec == split


def test_no_gradient_is_computed_of_the_rest(toy):
  task = toy.Toy()
  params = task.init(jax.random.key(0))
  rest = {'in': params.pop('in')}
  arguments = (
    rest,
    task.frozen,
    {'x': jnp.asarray(task.rows[:4])},
    (jax.random.split(jax.random.key(1), 4)),
    0,
    1,
  )
  _, grads = jax.eval_shape(
    lambda params: gradients(task.loss, params, *arguments), params
  )
  assert jax.tree.structure(grads) == jax.tree.structure(params)


def test_given_parameters_are_the_first_ones(toy):
  mesh = make_mesh({'data': 2, 'fsdp': 4})
  init = toy.planned(mesh, optax.adam(1.0), param_dtype='bfloat16').init
  given = {
    'in': {'kernel': jnp.full((16, 32), 1 + 2**-12), 'bias': jnp.ones(32)}
  }
  state = init(jax.random.key(0), given)
  np.testing.assert_array_equal(state.params['in']['kernel'], 1)
  np.testing.assert_array_equal(state.ema['in']['kernel'], 1 + 2**-12)
  assert bits(state.params['out']) == bits(
    init(jax.random.key(0)).params['out']
  )


def test_the_base_lies_like_its_parameters_and_is_what_init_draws(toy):
  planned = toy.planned(
    make_mesh({'data': 2, 'fsdp': 4}), optax.adam(1.0), trainable='out/.*'
  )
  base = planned.make_base(jax.random.key(0))
  assert base['in']['kernel'].sharding.spec == jax.P(None, 'fsdp')
  whole = jax.jit(toy.Toy().init)(jax.random.key(0))
  assert bits(base) == bits({'in': whole['in']})


def test_a_pattern_for_nothing_leaves_no_folder(toy, tmp_path):
  with pytest.raises(UserError) as error:
    toy.run(tmp_path / 'run', trainable='inn/.*')
  assert (error.value.key, error.value.value) == ('trainable', 'inn/.*')
  assert not (tmp_path / 'run').exists()


def test_the_ema_holds_only_trainable_parameters(toy):
  mesh = make_mesh({'data': 2, 'fsdp': 4})
  planned = toy.planned(mesh, optax.adam(1.0), trainable='out/bias')
  assert sum(x.size for x in jax.tree.leaves(planned.state.ema)) == 8


def size_of(tree):
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def saved_bytes(workdir):
  newest = max((workdir / 'checkpoints').iterdir(), key=lambda p: int(p.name))
  return sum(p.stat().st_size for p in newest.rglob('*') if p.is_file())


@pytest.mark.long
def test_one_percent_of_the_parameters_costs_one_percent(toy, tmp_path):
  """Average, moments and a checkpoint's bytes."""

  class Wide(toy.Toy):
    rules = [(r'(in|out|adapter)/kernel', (None, 'fsdp')), (r'.*/bias', ())]

    def init(self, rng):
      params = super().init(rng)
      noise = jax.random.normal(rng, (64, 64))
      return {**params, 'adapter': {'kernel': noise}}

    def loss(self, params, *args):
      loss, aux = super().loss(params, *args)
      return loss + jnp.sum(params['adapter']['kernel'] ** 2), aux

  task = Wide(width=2**14)
  mesh = make_mesh({'data': 2, 'fsdp': 4})
  full = toy.planned(mesh, optax.adam(1.0), task).state
  part = toy.run(tmp_path, task, num_steps=1, trainable='adapter/.*')
  share = size_of(part.params) / size_of(full.params)
  assert 0.009 < share <= 0.01
  for trees in ((part.ema, full.ema), (part.players, full.players)):
    assert size_of(trees[0]) <= 0.011 * size_of(trees[1])
  # The names of leaves, and orbax's own files.
  assert saved_bytes(tmp_path) <= size_of(part) + 2**15 < 0.02 * size_of(full)


def given(toy, value):
  """The toy, whose `in` is in a "folder" called good, moved or other."""

  def load(name, mesh):
    if name == 'gone':
      raise UserError(f'{name} is no model folder')
    seed = {'good': 0, 'moved': 0, 'other': 1}[name]
    kernel = value * jax.random.normal(jax.random.key(seed), (16, 32))
    return {'in': {'kernel': kernel, 'bias': jnp.zeros(32)}}

  return dataclasses.replace(
    toy.Toy().make(), start=Start(lambda name: None, load)
  )


@pytest.mark.long
def test_a_base_from_a_folder_is_recorded_and_compared(toy, tmp_path):
  run = functools.partial(
    toy.run, tmp_path / 'run', given(toy, 0.1), trainable='out/.*'
  )
  run(num_steps=4, init_from='good')
  about = json.loads(
    (tmp_path / 'run/checkpoints/4/about/metadata').read_text()
  )
  assert about['base']['init_from'] == 'good' and about['base']['seed'] is None
  assert about['layout'] == 2 and about['version'] == sana_jax.__version__
  for name in 'other', '':
    with pytest.raises(UserError) as error:
      run(num_steps=6, init_from=name)
    assert (error.value.key, error.value.value) == ('init_from', name)
    assert error.value.allowed == ('good',)
  with pytest.raises(UserError, match='gone'):
    run(num_steps=6, init_from='gone')
  state = run(num_steps=6, init_from='moved')
  assert bits(state) == bits(
    toy.run(
      tmp_path / 'whole',
      given(toy, 0.1),
      trainable='out/.*',
      num_steps=6,
      init_from='good',
    )
  )


@pytest.mark.long
def test_a_resumed_full_run_does_not_read_init_from(toy, tmp_path):
  task = given(toy, 0.1)
  toy.run(tmp_path, task, num_steps=2, init_from='good')
  assert int(toy.run(tmp_path, task, num_steps=3, init_from='gone').step) == 3


def test_a_workdir_of_another_layout_is_refused(toy, cut):
  path = cut / 'checkpoints/5/about/metadata'
  about = json.loads(path.read_text())
  del about['layout']
  path.write_text(json.dumps(about))
  with pytest.raises(UserError, match='checkpoints/5') as error:
    toy.run(cut)
  assert (error.value.value, error.value.allowed) == (1, (2,))
