"""The monitor turns events of the loop and the report into logged metrics."""

import itertools
import threading

from etils import epath
import numpy as np
import optax
import pytest

from sana_jax.objectives.levels import Levels
from sana_jax.sharding.mesh import make_mesh
from sana_jax.training.monitoring import Monitor

pytestmark = pytest.mark.fast


@pytest.fixture
def make(toy, tmp_path):
  """A monitor of the toy, and its endless batches."""

  def made(stall_minutes=0.0, divergence_factor=0.0):
    task = toy.Toy()
    config = toy.get_config(
      watch={
        'stall_minutes': stall_minutes,
        'divergence_factor': divergence_factor,
      }
    )
    mesh = make_mesh({'data': -1})
    planned = toy.planned(mesh, optax.sgd(0.1))
    watch = Monitor(epath.Path(tmp_path), config, task.make(), planned, mesh)
    return watch, itertools.repeat({'x': task.rows[:16]})

  return made


def metrics(loss=1.0, in_a_row=0):
  return {
    'loss': np.float32(loss),
    'skipped_in_a_row': np.int32(in_a_row),
    'of': Levels(np.array([2 * loss, loss]), np.array([2.0, 1.0])),
  }


def test_skipped_steps_are_in_no_mean(make):
  watch, batches = make()
  with watch:
    for step, (loss, in_a_row) in enumerate(
      [(1.0, 0), (np.nan, 1), (np.inf, 2), (3.0, 0)], 1
    ):
      watch.next(batches, step - 1)
      watch.ended(step, metrics(loss, in_a_row))
    line = watch.line(4, {'loss': 3.0})
  assert line['of/0.000-0.500'] == line['of/0.500-1.000'] == 2


def test_a_line_has_speed_and_means_of_its_own_interval(make):
  watch, batches = make()
  with watch:
    for step in range(1, 5):
      watch.next(batches, step - 1)
      with watch.step(step):
        watch.ended(step, metrics(step))
      line = watch.line(step, {'loss': float(step)})
      assert line['of/0.000-0.500'] == step
      assert ('step_seconds/p50' in line) == (step > 1)


def test_divergence_is_logged(make, caplog):
  watch, _ = make(divergence_factor=5.0)
  with watch:
    for step in range(24):
      watch.line(step, {'loss': 1.0 if step < 20 else 99.0, 'grad_norm': 1.0})
  assert [x.partition(' is ')[0] for x in caplog.messages] == [
    'Step 22: loss 99'
  ]


def test_a_watchdog_runs_if_configured_and_ends_with_the_monitor(make):
  count = lambda: sum(t.name == 'watchdog' for t in threading.enumerate())
  for minutes, dogs in ((0.0, 0), (10.0, 1)):
    with make(stall_minutes=minutes)[0]:
      assert count() == dogs
    assert count() == 0
