"""Tables of steps, from given records."""

import dataclasses

import pytest

from sana_jax.analysis.profile_breakdown import Time
from sana_jax.errors import UserError
from sana_jax.tools.bench.step import Record
from sana_jax.tools.bench.step_report import (
  COMPILED,
  findings,
  MEASURED,
  PLANNED,
)
from sana_jax.tools.report import Run, to_json

pytestmark = pytest.mark.fast

GIB = 2**30
OFF = Record(
  'm+model.remat=none',
  'kernels off',
  128,
  'bfloat16',
  'none',
  'NVIDIA H200',
  {'data': 1, 'fsdp': 4},
  [4.0, 2.0],
  model_flops=3 * 10**15,
  used_bytes=3 * GIB,
  predicted={'total': 1.5, 'compute': 1.0, 'memory': 0.5},
  ceilings={'flops': 1e15},
  times=[
    Time('elementwise', 1.0, 1.0, 'blocks/gate', 0.25),
    Time('products', 1.0, 0.5),
  ],
)
RECORDS = [
  OFF,
  dataclasses.replace(OFF, by='kernels on', seconds=[4.0], times=[]),
  Record(
    'm+model.remat=full',
    'kernels on',
    128,
    remat='full',
    failed='out of memory',
  ),
]
RUN = Run(
  RECORDS,
  'NVIDIA H200',
  '2026-01-01',
  {'jax': '1'},
  'sana-jax bench step',
  note='Nothing else ran.',
)


def test_rows_of_measured_steps_have_failures():
  head, off, on, failed = MEASURED.rows(RUN)
  assert dict(zip(head, off)) == {
    'config': 'm+model.remat=none',
    'by': 'kernels off',
    'remat': 'none',
    'images': '128',
    'seconds': '2',
    'images/s': '64',
    'predicted s': '1.5',
    'MFU, published': '37.9%',
    'MFU, measured': '37.5%',
    'GiB': '3.00',
    'ratio': '',
    'failed': '',
  }
  assert dict(zip(head, on))['ratio'] == '0.50'
  assert failed[4:] == ('', '', '', '', '', '', '', 'out of memory')


def test_the_fastest_variant_names_its_losses():
  assert findings(RUN) == [
    'm: remat none by kernels off is the fastest, MFU 37.9% (the target of 50% '
    'is not met); it loses most to',
    '1. elementwise: 50% of the step, 25% of it in blocks/gate',
    '2. products below the peak: 25% of the step',
  ]
  torn = dataclasses.replace(OFF, times=[], unprofiled='ValueError: torn')
  assert (
    'its profile failed: ValueError: torn'
    in findings(dataclasses.replace(RUN, records=[torn]))[0]
  )


def test_rows_of_compiled_steps():
  record = Record(
    'm',
    'sana_jax',
    8,
    mesh={'data': 1, 'fsdp': 2},
    state_bytes=GIB,
    temporary_bytes=3 * 2**29,
    kernels={'glumb_conv': 2},
  )
  run = dataclasses.replace(RUN, records=[record], device='v5p:4x4x4')
  assert COMPILED.rows(run)[1] == (
    'm',
    'sana_jax',
    'fsdp 2',
    '1.00',
    '1.50',
    '2 glumb_conv',
    'none',
  )
  assert '*Compiled* 2026-01-01 with jax 1. Nothing else ran.' in (
    COMPILED.markdown([run])
  )


def test_rows_of_a_plan_have_errors_of_time_and_memory():
  record = Record(
    'shapes',
    'sana_jax',
    32,
    'float32',
    seconds=[2.5, 2.0, 4.0],
    predicted={'total': 1.5, 'compute': 1.0, 'memory': 0.5},
    needed_bytes=3 * GIB,
    used_bytes=4 * GIB,
    flops=2e12,
    moved=3e9,
    temporary_bytes=GIB,
    ceilings={'flops': 2e12, 'memory_rate': 6e9, 'page_rate': 2.0 * GIB},
  )
  gpu = dataclasses.replace(
    record, used_bytes=None, ceilings={'flops': 2e12, 'memory_rate': 6e9}
  )
  run = dataclasses.replace(RUN, records=[record, gpu, RECORDS[-1]])
  _, row, untold, failed = PLANNED.rows(run)
  assert row == (
    'shapes',
    'float32',
    '32',
    '1.5',
    '1',
    '0.5',
    '2',
    '2.5',
    '-25%',
    '3.000',
    '4.000',
    '-25.0%',
    '2,000.0',
    '3.00',
    '2',
    '6',
    '0.5',
  )
  assert untold[9:12] == ('3.000', '', '') and untold[-1] == ''
  assert 'out of memory' in failed and len(failed) == len(row)


@pytest.mark.parametrize('report', [MEASURED, PLANNED, COMPILED])
def test_json_holds_everything(report):
  assert report.from_json(to_json(RUN)) == RUN
  for text in ('{}', 'no json', '[]', '1', '[' * 10**5, '1' * 5000, b'\xff'):
    with pytest.raises(UserError) as error:
      report.from_json(text)
    assert (error.value.key, error.value.allowed) == (
      '--render',
      ('sana-jax bench',),
    )
