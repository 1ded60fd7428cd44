"""Each step is reported once, late, and in JSON that everyone can read."""

import json
import logging
import os

from absl import logging as absl_logging
from etils import epath
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image
import pytest

from sana_jax.errors import UserError
from sana_jax.optim import factory
from sana_jax.sharding.mesh import make_mesh
from sana_jax.training import reporting
from sana_jax.training.jsonl_log import JsonlLog
from sana_jax.training.reporting import Report, silence

pytestmark = pytest.mark.fast

CONFIG = ml_collections.ConfigDict(
  {
    'num_steps': 6,
    'batch_size': 4,
    'log_every_steps': 2,
    'max_skipped_in_a_row': 2,
  }
)


def metrics(loss=1.0, skipped=0, in_a_row=0):
  return {
    'loss': jnp.float32(loss),
    'skipped': jnp.int32(skipped),
    'skipped_in_a_row': jnp.int32(in_a_row),
  }


def lines(folder):
  return [
    json.loads(x, parse_constant=pytest.fail)
    for x in (folder / 'metrics.jsonl').read_text().splitlines()
  ]


def report(folder, start=0, schedule=lambda step: step / 10):
  return Report(epath.Path(folder), CONFIG, schedule, start)


def test_a_line_comes_every_log_interval_and_at_the_end(tmp_path):
  with report(tmp_path, start=1) as r:
    for step in (2, 3, 4, 5, 6):
      r(step, metrics(step))
  found = lines(tmp_path)
  assert [(x['step'], x['loss']) for x in found] == [(2, 2), (4, 4), (6, 6)]
  assert all(x['images_per_second'] >= 0 and x['seconds'] >= 0 for x in found)


def test_metrics_are_read_one_step_late(tmp_path):
  with report(tmp_path) as r:
    r(2, metrics())
    assert lines(tmp_path) == []
    r(3, metrics())
    assert len(lines(tmp_path)) == 1


def test_the_learning_rate_is_computed_without_the_other_processes(tmp_path):
  devices = []

  def schedule(step):
    devices.append(jax.sharding.get_abstract_mesh().size)
    return step / 10

  with (
    jax.set_mesh(make_mesh({'data': 8})),
    report(tmp_path, schedule=schedule) as r,
  ):
    r(2, metrics())
  assert devices == [1]
  assert lines(tmp_path)[0]['learning_rate'] == pytest.approx(0.1)


def test_the_learning_rate_is_the_one_that_the_step_used(tmp_path):
  # Of the steps 1..6, number 3 and 4 were skipped: the optimizer's own count
  # is 1 at step 2, 2 at step 4 (to no effect), and 3 at step 6.
  with report(tmp_path) as r:
    r(2, metrics())
    r(4, metrics(skipped=2, in_a_row=1))
    r(6, metrics(skipped=2))
  rates = [x['learning_rate'] for x in lines(tmp_path)]
  assert rates == pytest.approx([0.1, 0.2, 0.3])


def test_learning_rates_are_computed_in_blocks(tmp_path):
  # Each call would wait for the step in flight.
  calls = []
  with report(tmp_path, schedule=lambda n: (calls.append(n), n / 10)[1]) as r:
    for step in (2, 4, 6):
      r(step, metrics())
  assert [x['learning_rate'] for x in lines(tmp_path)] == (
    pytest.approx([0.1, 0.3, 0.5])
  )
  assert len(calls) == 1


@pytest.mark.parametrize('name', ['constant', 'cosine', 'warmup_stable_decay'])
def test_learning_rates_are_those_of_the_schedule(tmp_path, name):
  rate = factory.schedule(
    ml_collections.ConfigDict(
      {
        'name': 'adamw',
        'learning_rate': 1e-3,
        'schedule': name,
        'warmup_steps': 3,
      }
    ),
    2000,
  )
  with report(tmp_path, schedule=rate) as r:
    for step in (2, 1024, 1026):  # Two blocks.
      r(step, metrics())
  assert [x['learning_rate'] for x in lines(tmp_path)] == pytest.approx(
    [float(rate(step - 1)) for step in (2, 1024, 1026)], rel=1e-6
  )


def test_a_loss_that_is_not_finite_is_null(tmp_path):
  with report(tmp_path) as r:
    r(2, metrics(float('nan'), 1, 1))
  assert lines(tmp_path)[0]['loss'] is None


def test_too_many_skipped_in_a_row_stop(tmp_path):
  with (
    pytest.raises(UserError, match='step 3') as error,
    report(tmp_path) as r,
  ):
    r(2, metrics(float('nan'), 1, 1))
    r(3, metrics(float('nan'), 2, 2))
  assert error.value.key == 'max_skipped_in_a_row' and error.value.value == 2


class Board:
  """Records what a dashboard gets."""

  def __init__(self):
    self.scalars, self.images, self.is_closed = {}, {}, False

  def write_scalars(self, step, scalars):
    self.scalars[step] = dict(scalars)

  def write_image(self, step, image):
    self.images[step] = image

  def close(self):
    self.is_closed = True


def test_dashboards_have_the_numbers_of_the_lines(tmp_path, monkeypatch):
  board = Board()
  monkeypatch.setattr(reporting.boards, 'opened', lambda *_: board)
  with report(tmp_path) as r:
    r(2, metrics(0.5) | {'norm/block': jnp.array([1.0, jnp.nan])})
    r(4, metrics(0.25))
  assert board.is_closed
  for line in lines(tmp_path):
    known = {k: v for k, v in line.items() if v is not None and k != 'step'}
    assert board.scalars[line['step']] == known
  assert lines(tmp_path)[0]['norm/block_00'] == 1
  assert 'norm/block_01' not in board.scalars[2]  # It has no null.


def test_dashboards_have_the_samples(tmp_path, monkeypatch):
  board = Board()
  monkeypatch.setattr(reporting.boards, 'opened', lambda *_: board)
  pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
  with report(tmp_path) as r:
    r.picture(3, Image.fromarray(pixels))
  np.testing.assert_array_equal(board.images[3], pixels)


def test_lines_after_the_restored_step_and_truncated_ones_are_dropped(tmp_path):
  path = epath.Path(tmp_path / 'metrics.jsonl')
  whole = [json.dumps({'step': s, 'seconds': s / 2}) for s in (2, 4, 6)]
  path.write_text('\n'.join([*whole, '{"step": 8, "lo']))
  assert JsonlLog(path, 4).seconds == 2.0
  assert path.read_text() == ''.join(x + '\n' for x in whole[:2])


@pytest.mark.parametrize(
  'bad',
  [
    b'{"step": 4, "loss": \xff}',
    b'[' * 10**5,
    b'[1, 2]',
    b'3',
    b'"step"',
    b'{"loss": 1.0}',
    b'{"step": "4"}',
    b'{"step": true}',
    b'{"step": 4.0}',
    b'{"step": 4, "seconds": "1"}',
    b'{"step": 4, "loss": [1]}',
    b'',
    b'\0' * 9,
    b'{"step": 4, "loss": %s}' % (b'1' * 5000),
    b'{"step": 4, "loss": 1e999',
  ],
)
def test_invalid_lines_are_dropped_and_the_rest_stays(tmp_path, bad, caplog):
  path = epath.Path(tmp_path / 'metrics.jsonl')
  whole = [json.dumps({'step': s, 'seconds': s / 2}).encode() for s in (2, 4)]
  path.write_bytes(b'\n'.join([whole[0], bad, whole[1], b'']))
  assert JsonlLog(path, 4).seconds == 2.0
  assert path.read_bytes() == b''.join(x + b'\n' for x in whole)
  assert '1 truncated or damaged line of 3' in caplog.text


def test_lines_that_end_without_seconds_count_from_zero(tmp_path):
  path = epath.Path(tmp_path / 'metrics.jsonl')
  path.write_text('{"step": 2, "seconds": null}\n')
  assert JsonlLog(path, 4).seconds == 0.0


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir])
def test_a_fifo_in_place_of_the_metrics_raises(tmp_path, make):
  make(tmp_path / 'metrics.jsonl')
  path = epath.Path(tmp_path / 'metrics.jsonl')
  with pytest.raises(UserError) as error:
    JsonlLog(path, 4)
  assert (error.value.key, error.value.value) == ('--workdir', path)


def test_seconds_continue_from_the_last_run(tmp_path):
  line = {'step': 2, 'seconds': 100.0}
  (tmp_path / 'metrics.jsonl').write_text(json.dumps(line) + '\n')
  with report(tmp_path, start=2) as r:
    r(4, metrics())
  assert 100 <= lines(tmp_path)[1]['seconds'] < 110


def test_without_a_terminal_the_last_step_has_a_line(tmp_path, caplog):
  with caplog.at_level(logging.INFO, 'absl'), report(tmp_path) as r:
    for step in range(1, 7):
      r(step, metrics(0.5))
  logged = [x for x in caplog.messages if x.startswith('step')]
  assert len(logged) == 1 and logged[0].startswith('step 6/6  loss 0.5, ')


def test_only_the_silenced_package_is_removed_from_the_log(caplog):
  with caplog.at_level(logging.INFO, 'absl'):
    with silence('training'):  # This file's own folder.
      absl_logging.info('one')
    with silence('orbax'):
      absl_logging.info('two')
  assert caplog.messages == ['two']


def test_the_parameters_of_each_part_are_logged_the_largest_first(caplog):
  zeros = jnp.zeros
  params = {
    'small': {'bias': zeros(7)},
    'large': {'kernel': zeros((40, 50)), 'bias': zeros(50)},
  }
  with caplog.at_level(logging.INFO, logger='absl'):
    reporting.log_overview(params)
  (record,) = caplog.records
  assert record.getMessage() == '2,057 parameters: large 2,050, small 7.'
