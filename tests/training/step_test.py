"""The step itself: a batch in parts is the same batch, whatever the mesh."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sana_jax import config as configs
from sana_jax.errors import UserError
from sana_jax.optim import factory
from sana_jax.sharding.mesh import (
  batch_rows,
  check_batch,
  make_mesh,
  place_rows,
)
from sana_jax.training import step
from sana_jax.training.state import Frozen, plan
from sana_jax.training.step import gradients, jit_step, replicate

BATCH = 16


def inputs():
  """A batch, and what is frozen."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  batch = {
    'latents': normal(BATCH, 4, 4, 4),
    'text': normal(BATCH, 6, 8),
    'mask': rng.random((BATCH, 6)) < 0.7,
  }
  return batch, {'null_text': normal(6, 8), 'null_mask': np.arange(6) < 1}


def optimizer():
  config = configs.train('sana').optimizer
  config.update(name='came', learning_rate=1e-4)
  return factory.make(config, 100)


@pytest.fixture(scope='module')
def first(flow):
  """The first state, on the host: all start there."""
  mesh = make_mesh({'data': 1}, jax.devices()[:1])
  planned = plan(flow.objective(), {'model': optimizer()}, mesh)
  return jax.device_get(planned.init(jax.random.key(0)))


def on_first_devices(mesh):
  return make_mesh(mesh, jax.devices()[: np.prod([*mesh.values()])])


def put(first, shapes):
  return jax.tree.map(
    lambda x, shape: jax.device_put(x, shape.sharding), first, shapes
  )


def other_arguments(mesh):
  """The other arguments of a step on a mesh."""
  batch, frozen = inputs()
  batch = place_rows(batch, batch_rows(mesh, BATCH), mesh, BATCH)
  with jax.set_mesh(mesh):
    frozen, rng = replicate((Frozen(frozen), jax.random.key(1)), mesh)
  return frozen, batch, rng


def gradient(objective, first, mesh, accumulate=1):
  """Loss and the whole gradient as one vector."""
  mesh = on_first_devices(mesh)
  # No optimizer, as it would take most of the time.
  planned = plan(objective, {'model': optax.identity()}, mesh, average=False)
  frozen, batch, rng = other_arguments(mesh)
  with jax.set_mesh(mesh):
    (loss, _), grads = jax.jit(
      functools.partial(gradients, objective.loss, accumulate=accumulate)
    )(
      put(first.params, planned.state.params),
      {},
      frozen.inputs,
      batch,
      jax.random.split(rng, BATCH),
      first.step,
    )
  return float(loss), jax.flatten_util.ravel_pytree(jax.device_get(grads))[0]


def losses(objective, first, mesh, steps=20):
  """Losses of some steps on one batch, with new noise each."""
  mesh, tx, found = on_first_devices(mesh), optimizer(), []
  shapes = plan(objective, {'model': tx}, mesh).state
  state, rest = put(first, shapes), other_arguments(mesh)
  with jax.set_mesh(mesh):
    step = jit_step(
      shapes,
      mesh,
      players=objective.players,
      optimizers={'model': tx},
      ema_decay=0.9,
    )
    for _ in range(steps):
      state, metrics = step(state, *rest)
      found.append((metrics['loss'], metrics['grad_norm']))
  return np.array(jax.device_get(found))


@pytest.fixture(scope='module')
def whole(flow, first):
  return gradient(flow.objective(), first, {'data': 1})


@pytest.fixture(scope='module')
def alone(flow, first):
  return losses(flow.objective(), first, {'data': 1})


def relative_error(got, want):
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize(
  'mesh, parts',
  [
    pytest.param({'data': 2, 'fsdp': 2}, 4, marks=pytest.mark.long),
    pytest.param({'data': 1}, 4, marks=pytest.mark.slow),
    pytest.param({'fsdp': 4, 'tensor': 2}, 2, marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_a_batch_in_parts_is_the_batch(flow, first, whole, mesh, parts):
  loss, grads = gradient(flow.objective(), first, mesh, parts)
  assert loss == pytest.approx(whole[0], rel=1e-6)
  assert relative_error(grads, whole[1]) <= 1e-6


@pytest.mark.long
@pytest.mark.parametrize('remat', ['full', 'dots', 'offload'])
def test_remat_changes_no_gradient(flow, first, whole, remat):
  loss, grads = gradient(flow.objective(remat=remat), first, {'data': 1})
  assert loss == pytest.approx(whole[0], rel=1e-6)
  assert relative_error(grads, whole[1]) <= 1e-6


@pytest.mark.long
@pytest.mark.parametrize(
  'mesh',
  [
    {'fsdp': 2, 'tensor': 2, 'sequence': 2},
    *(
      pytest.param(mesh, marks=pytest.mark.slow)
      for mesh in (
        {'fsdp': 4, 'tensor': 2},
        {'data': 2, 'fsdp': 2, 'sequence': 2},
        {'data': 8},
        {'fsdp': 8},
        {'fsdp': 2, 'sequence': 4},
        {'data': 2, 'fsdp': 4},
      )
    ),
  ],
  ids=str,
)
def test_twenty_steps_in_every_layout_are_those_of_one_device(
  flow, first, alone, mesh, capfd
):
  np.testing.assert_allclose(
    losses(flow.objective(), first, mesh), alone, rtol=1e-4
  )
  assert 'Involuntary full rematerialization' not in capfd.readouterr().err


def test_each_step_has_noise_of_its_own_and_repeats_it(toy):
  task, tx, mesh = toy.Toy(), optax.sgd(0.0), make_mesh({'data': 8})
  state = toy.planned(mesh, tx, task).init(jax.random.key(0))
  run = jax.jit(
    functools.partial(
      step.train_step,
      players=task.players(),
      optimizers={'model': tx},
      ema_decay=0.9,
    )
  )

  def loss(number):  # At a rate of 0 only the step's noise differs.
    at = state._replace(step=jnp.int32(number))
    batch = {'x': task.rows[:16]}
    return float(
      run(at, Frozen(task.frozen), batch, jax.random.key(1))[1]['loss']
    )

  assert len({loss(number) for number in range(4)}) == 4
  assert loss(2) == loss(2)


def test_microbatches_that_do_not_divide_the_batch_raise():
  mesh = make_mesh({'data': 2, 'fsdp': 4})
  with pytest.raises(UserError, match='accumulate_steps=4') as error:
    check_batch(mesh, 48, 4)
  assert (error.value.key, error.value.value) == ('batch_size', 48)
  assert error.value.allowed == 'multiples of 32'


class Full(jax.stages.Compiled):
  """A jitted step for which memory runs out, at once or when it runs."""

  def __init__(self, fits, error):
    self.fits, self.error = fits, error

  def lower(self, *_):
    return self

  def compile(self):
    return self if self.fits else self()

  def memory_analysis(self):
    return None

  def __call__(self, *_):
    raise self.error


@pytest.mark.parametrize('fits', [False, True])
def test_a_step_that_needs_too_much_memory_raises_a_user_error(
  toy, tmp_path, monkeypatch, fits
):
  full = Full(
    fits,
    jax.errors.JaxRuntimeError(
      'RESOURCE_EXHAUSTED: Out of memory allocating 9000000 bytes.'
    ),
  )
  monkeypatch.setattr(step, 'jit_step', lambda *_, **__: full)
  with pytest.raises(
    UserError,
    match='batch_size.*accumulate_steps.*model.remat.*--layout.*sana-jax plan',
  ):
    toy.run(tmp_path)
  full.error = jax.errors.JaxRuntimeError('INTERNAL: something else')
  with pytest.raises(jax.errors.JaxRuntimeError, match='something else'):
    toy.run(tmp_path)
