"""Every stage yields its rows, at the sizes of a CPU."""

import itertools

import pytest

from sana_jax.errors import UserError
from sana_jax.kernels import tuning
from sana_jax.tools.bench.chip import report, runner, tiles
from sana_jax.tools.bench.chip.sizes import FULL, TINY
from sana_jax.tools.bench.chip.stages import STAGES
from sana_jax.tools.report import Run

BY_NAME = {stage.name: stage for stage in STAGES}
RATES = {
  'device rates': {
    'copy': {'rate': 1e10, 'unit': 'GB/s'},
    'bf16': {'rate': 1e12, 'unit': 'TFLOP/s'},
  }
}


def found(name, earlier=RATES, count=None):
  """The first `count` rows of a stage, or all."""
  rows = BY_NAME[name].run(lambda: 100.0, TINY, earlier)
  return dict(itertools.islice(rows, count))


def test_the_order_and_the_time_are_those_of_a_lease():
  kinds = [name.split()[0] for name in BY_NAME]
  assert list(dict.fromkeys(kinds)) == [
    'device',
    'relu_linear_attention',
    'glumb_conv',
    'tiles',
    'step',
    'request',
  ]
  assert sum(s.budget for s in STAGES[:5]) < 5 * 60
  assert set(FULL.steps) == set(TINY.steps) == {'0.6B', '1.6B'}


@pytest.mark.long
def test_rates_are_of_a_copy_and_three_types():
  rows = found('device rates')
  assert list(rows) == ['copy', 'bf16', 'int8', 'fp8']
  assert all(row['rate'] > 0 for row in rows.values())


@pytest.mark.long
@pytest.mark.parametrize(
  'op, other',
  [('relu_linear_attention', 'xla_chunked'), ('glumb_conv', 'xla_jvp')],
)
def test_operations_are_by_both_backends_in_both_passes(op, other):
  rows = found(op)
  assert [name.split(', ')[1:] for name in rows] == [
    [x, y] for y in ('xla', other) for x in ('forward', 'training')
  ]
  for row in rows.values():
    assert row['seconds'] > 0 and row['bytes'] > 0 and row['error'] < 1e-5


@pytest.mark.long
def test_tiles_are_found_and_used_by_later_stages():
  rows = found('tiles of relu_linear_attention', count=1)
  assert {row['entry'][1] for row in rows.values()} == {'xla_chunked'}
  row = dict(
    next(iter(rows.values())),
    values={'chunk': 7},
    entry=['relu_linear_attention', 'xla_chunked', 'forward x'],
  )
  earlier = {'tiles of relu_linear_attention': {'row': row}}
  before = tuning.FOLDER
  with tiles.in_use(earlier):
    assert tuning.table('cpu')['relu_linear_attention']['xla_chunked'][
      'forward x'
    ] == {'chunk': 7}
  assert before == tuning.FOLDER and 'forward x' not in str(tuning.table('cpu'))


@pytest.mark.long
def test_a_step_has_its_time_its_plan_and_its_profile():
  rows = found('step of the 0.6B, kernels off')
  assert list(rows) == ['program', 'time', 'profile']
  assert rows['program']['predicted_seconds'] > 0
  assert rows['program']['kernel_calls'] == 0 < rows['program']['needed_bytes']
  assert rows['time']['images_per_second'] == pytest.approx(
    2 / rows['time']['seconds']
  )
  shares = {k: v for k, v in rows['profile'].items() if k.endswith(' share')}
  assert sum(shares.values()) == pytest.approx(1)
  assert rows['profile']['launches'] > 1
  with pytest.raises(UserError) as error:
    found('step of the 0.6B, kernels on')
  assert (error.value.key, error.value.value) == ('--kernels', 'cpu')


@pytest.mark.long
def test_a_request_is_timed_from_prompt_to_pixels():
  rows = found('request of 1, sana_jax')
  assert set(rows) == {'text', 'denoise', 'decode'}
  for row in rows.values():
    assert min(row['seconds'], row['first_seconds'], row['flops']) > 0


def a_run():
  """A run with a stage of each kind, and one that is missing."""
  case = {'bytes': 10**9, 'flops': 1, 'error': 1e-3, 'shape': [2, 3]}
  step = {
    'size': 512,
    'batch': 8,
    'remat': 'dots',
    'kernel_calls': 4,
    'predicted_seconds': 0.5,
    'needed_bytes': 2**30,
  }
  request = {'batch': 1, 'flops': 10**11}
  reference = {
    stage: {'batch': 1, 'flops': 0, 'seconds': 2.0}
    for stage in ('text', 'denoise', 'decode')
  }
  rows = RATES | {
    'glumb_conv': {
      'm, forward, xla': {'seconds': 0.4, **case},
      'm, forward, mosaic_gpu': {'seconds': 0.2, **case},
      'm, training, mosaic_gpu': {'problem': 'wrong'},
    },
    'step of the 0.6B, kernels on': {
      'program': step,
      'time': {'seconds': 1.0, 'images_per_second': 8.0, 'flops': 4 * 10**11},
      'profile': {'elementwise share': 0.25, 'launches': 99.0},
    },
    'request of 1, sana_jax': {
      s: {'seconds': 1.0, **request} for s in reference
    },
    'request of 1, diffusers': reference,
  }
  return Run(
    [
      *(runner.Result(name, 'measured', rows=r) for name, r in rows.items()),
      runner.Result('more', 'missing', 'torch, diffusers'),
    ],
    'a chip',
    '2026-01-01',
    {'jax': '1'},
    'sana-jax bench chip',
  )


def test_the_table_has_shares_of_what_was_measured():
  run = a_run()
  by_name = {row[:2]: row[2:] for row in report.rows(run)}
  assert by_name['glumb_conv', 'm, forward, mosaic_gpu'] == (
    '200',
    '5 GB/s',
    '50%',
    'by XLA 0.50, error 1e-03, 2x3',
  )
  assert by_name['glumb_conv', 'm, training, mosaic_gpu'][3] == 'wrong'
  *cells, more = by_name['step of the 0.6B, kernels on', 'step']
  assert cells == ['1000', '8 images/s', '40%']
  assert 'predicted 500 ms' in more and more.endswith(
    'elementwise 25%, 99 launches'
  )
  assert by_name['request of 1, sana_jax', 'whole'] == (
    '3000',
    '0.3333 images/s',
    '10%',
    '0.50 of the time of diffusers',
  )
  assert report.left(run) == [
    '- more: missing (torch, diffusers)',
    '- Packages to install: torch, diffusers.',
  ]
  assert '| 50% | by XLA 0.50' in report.CHIP.markdown([run])


def test_the_page_opens_with_the_speed_of_steps_and_requests():
  run = a_run()
  assert report.result([run]) == (
    '5 of 6 stages are measured on a chip: '
    '8 images/s (step of the 0.6B, kernels on), 0.3333 images/s (request of 1, '
    'sana_jax) and 0.1667 images/s (request of 1, diffusers).'
  )
  assert report.bars([run]).groups['request of 1, sana_jax'] == {
    'a chip': 0.3333
  }
