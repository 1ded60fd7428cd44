"""Speeds are those of a clock that we set, and FLOPs those of closed forms."""

import jax
import jax.numpy as jnp
import optax
import pytest

from sana_jax import kernels
from sana_jax.analysis import device
from sana_jax.objectives.base import Player
from sana_jax.sharding.mesh import make_mesh
from sana_jax.training import throughput, timers
from sana_jax.training.throughput import StepFlops, Throughput
from sana_jax.training.timers import PhaseTimers

pytestmark = pytest.mark.fast


class Clock:
  """Stands still until it is moved."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


class Run:
  """Phases and a throughput on one clock."""

  def __init__(self, **settings):
    self.clock = Clock()
    self.phases = PhaseTimers(self.clock)
    self.speed = Throughput(
      self.phases,
      clock=self.clock,
      **{'batch_size': 6, 'chips': 2, 'peak_flops': None, **settings},
    )

  def spend(self, seconds, phase=timers.STEP):
    with self.phases(phase):
      self.clock.now += seconds

  def step(self, seconds, step_flops=None, waits=0.0, pauses=0.0):
    self.speed.start(step_flops)
    self.spend(waits, timers.DATA)
    self.spend(pauses, timers.SAVE)
    self.spend(seconds - waits)
    self.speed.end()


def test_inner_phases_suspend_outer_ones():
  run = Run()
  with run.phases(timers.STEP):
    run.clock.now += 1
    with run.phases(timers.COMPILE):
      run.clock.now += 10
      assert run.phases.now() == (timers.COMPILE, 10)
      assert run.phases.seconds()[timers.COMPILE] == 10
    run.clock.now += 2
    assert run.phases.now() == (timers.STEP, 2)
  assert run.phases.seconds() == {timers.STEP: 3, timers.COMPILE: 10}
  assert run.phases.now() == (timers.ELSEWHERE, 0)


def test_a_phase_that_fails_has_ended():
  run = Run()
  with pytest.raises(KeyError), run.phases(timers.STEP):
    raise KeyError
  assert run.phases.now()[0] == timers.ELSEWHERE


def test_percentiles_are_of_the_steps_since_the_last_line():
  run = Run()
  for seconds in (500, 7):  # The first one compiles; the clock starts then.
    run.step(seconds)
  assert run.speed.line()['step_seconds/p50'] == 7
  for seconds in range(101):
    run.step(float(seconds))
  found = run.speed.line()
  # Of 0, 1, ... 100 the p-th percentile is p.
  assert {p: found[f'step_seconds/p{p}'] for p in (50, 90, 99)} == {
    50: 50,
    90: 90,
    99: 99,
  }


def test_images_per_chip_and_mfu_are_their_formulas():
  run = Run(batch_size=6, chips=2, peak_flops=40e12)
  run.step(100.0, 999)
  run.step(0.5, 12 * 10**12)
  run.step(1.0, 24 * 10**12)  # Another shape of batch.
  found = run.speed.line()
  assert found['images_per_second_per_chip'] == 12 / 1.5 / 2
  assert found['model_tflops_per_second_per_chip'] == 36 / 1.5 / 2
  assert found['mfu'] == 12 / 40


def test_without_a_peak_or_a_count_there_is_no_mfu():
  run = Run(peak_flops=None)
  run.step(1.0, 1)
  run.step(1.0, 10**12)
  found = run.speed.line()
  assert found['model_tflops_per_second_per_chip'] == 0.5
  assert 'mfu' not in found
  run = Run(peak_flops=1e12)
  run.step(1.0)
  run.step(1.0)
  found = run.speed.line()
  assert found['images_per_second_per_chip'] == 3
  assert not {'mfu', 'model_tflops_per_second_per_chip'} & set(found)


def test_shares_are_of_the_wall_time_and_pauses_are_no_step():
  run = Run()
  run.step(1.0)
  run.step(4.0, waits=1.0)
  run.step(4.0, waits=2.0, pauses=2.0)
  found = run.speed.line()
  assert found['data_wait_share'] == 0.3
  assert found['pause_share'] == 0.2
  assert found['step_seconds/p99'] == 4


def test_a_line_before_two_steps_has_no_speed():
  run = Run()
  run.step(1.0)
  found = run.speed.line()
  assert 'images_per_second_per_chip' not in found
  assert found['data_wait_share'] == 0


def test_steps_in_flight_are_counted_when_they_end():
  run = Run()
  run.step(1.0)
  run.speed.start(10**12)
  run.speed.start(5 * 10**12)  # Handed over before the first one has ended.
  run.spend(1.0)
  run.speed.end()
  assert run.speed.line()['model_tflops_per_second_per_chip'] == 0.5
  run.spend(1.0)
  run.speed.end()
  assert run.speed.line()['model_tflops_per_second_per_chip'] == 2.5


def work_of(toy, task, batch_size, **options):
  planned = toy.planned(
    make_mesh({'data': -1}), optax.sgd(0.1), task, **options
  )
  return StepFlops(task.objective, task.frozen, planned, batch_size)


def test_a_step_has_the_products_of_the_loss_and_its_gradient(toy):
  task = toy.Toy()
  work = work_of(toy, task, 64)
  # This process has a quarter of the rows. The target's product, 16 x 8, has
  # no gradient; 16 x 32 has that of its weights, 32 x 8 that of its input too.
  batch = {'x': task.rows[:16]}
  assert work(batch) == 2 * 64 * (16 * 8 + 2 * 16 * 32 + 3 * 32 * 8)


def test_frozen_parameters_have_no_gradient_flops(toy):
  task = toy.Toy()
  flops = lambda trainable: work_of(toy, task, 64, trainable=trainable)(
    {'x': task.rows[:16]}
  )
  assert flops('out/.*') == 2 * 64 * (16 * 8 + 16 * 32 + 2 * 32 * 8)
  # Through the last layer goes the gradient of the first.
  assert flops('in/.*') == 2 * 64 * (16 * 8 + 2 * 16 * 32 + 2 * 32 * 8)


def test_each_turn_is_counted_for_what_moves_in_it(toy):
  class Two(toy.Toy):
    def players(self):
      return (
        Player('out', self.loss, 'out/.*'),
        Player('in', self.loss, 'in/.*', every=2, offset=1),
      )

  task = Two()
  work = work_of(toy, task, 64)
  alone, both = (work({'x': task.rows[:16]}, steps) for steps in (0, 1))
  assert alone == 2 * 64 * (16 * 8 + 16 * 32 + 2 * 32 * 8)
  assert both == 2 * 64 * (16 * 8 + 2 * 16 * 32 + 3 * 32 * 8)


def test_each_shape_is_counted_once(toy):
  task, calls = toy.Toy(), []
  task.loss = lambda params, frozen, batch, rng, step: (
    calls.append(batch['x'].shape),
    (batch['x'] @ batch['x'].T, {}),
  )[1]
  work = work_of(toy, task, 4)
  for width in (3, 5, 3, 5):
    # Of data alone: no parameter has a gradient.
    assert work({'x': jnp.zeros((4, width))}) == 2 * 4 * 4 * width
  assert calls == [(4, 3), (4, 5)]


def test_a_loss_that_cannot_be_counted_is_logged(toy, caplog):
  task = toy.Toy()
  task.loss = lambda params, frozen, batch, rng, step: (
    jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ x, batch['x']),
    {},
  )
  assert work_of(toy, task, 4)({'x': jnp.zeros((4, 4))}) is None
  assert 'Model FLOP/s and MFU are not reported: A while' in caplog.text


def test_kernels_do_not_hide_work(toy):
  task = toy.Toy()
  task.rules = [('.', ())]
  task.init = lambda rng: dict.fromkeys('qkv', jnp.zeros((2, 16, 1, 32)))
  task.loss = lambda params, *_: (kernels.relu_linear_attention(**params), {})
  count = lambda: work_of(toy, task, 2)({'x': jnp.zeros((2, 1))})
  plain = count()
  assert plain > 0
  with kernels.prefer(relu_linear_attention='mosaic_tpu'):
    assert not kernels.relu_linear_attention.is_plain
    assert count() == plain
  with kernels.prefer(relu_linear_attention='xla'):
    assert kernels.relu_linear_attention.is_plain


@pytest.mark.parametrize(
  'kind, tflops',
  [
    ('TPU v5 lite', 197),
    ('TPU v5p', 459),
    ('TPU v6 lite', 918),
    ('NVIDIA H200', 989),
  ],
)
def test_peaks_are_those_of_the_data_sheets(kind, tflops):
  assert device.peak_flops(kind) == tflops * 1e12


def test_a_cpu_has_no_peak():
  assert device.peak_flops(jax.devices('cpu')[0].device_kind) is None
  speed = throughput.for_mesh(PhaseTimers(), make_mesh({'data': -1}), 8)
  speed.start(1)
  speed.end()
  speed.start(1)
  speed.end()
  found = speed.line()
  assert 'mfu' not in found and 'device_memory_gib' not in found
  assert found['model_tflops_per_second_per_chip'] >= 0


def test_memory_is_that_of_the_fullest_device(monkeypatch):
  class Device:
    def __init__(self, gib):
      self.gib = gib

    def memory_stats(self):
      return {
        'bytes_in_use': self.gib * 2**30,
        'peak_bytes_in_use': 2 * self.gib * 2**30,
      }

  monkeypatch.setattr(jax, 'local_devices', lambda: [Device(3), Device(5)])
  found = throughput.memory()
  assert (found['device_memory_gib'], found['device_memory_peak_gib']) == (
    5,
    10,
  )


def test_the_host_memory_is_read_from_proc(tmp_path):
  status = tmp_path / 'status'
  status.write_text('Name:\tpython\nVmRSS:\t    2048 kB\nThreads:\t1\n')
  assert throughput.host_bytes(status) == 2048 * 1024
  status.write_text('Name:\tpython\n')
  assert throughput.host_bytes(status) is None
  assert throughput.host_bytes(tmp_path / 'none') is None
