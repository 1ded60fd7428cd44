"""Figures of compilers are stored and shown unchanged."""

import dataclasses

import pytest

from sana_jax.errors import UserError
from sana_jax.tools.bench.ops import report
from sana_jax.tools.bench.ops.compiled import Record
from sana_jax.tools.bench.ops.report import COMPILED
from sana_jax.tools.report import Run, to_json

pytestmark = pytest.mark.fast

CASE = dict(
  op='glumb_conv',
  shape=(1, 128, 128, 128),
  dtype='bfloat16',
  where='a model',
  training=False,
)
RUN = Run(
  [
    Record(
      **CASE, backend='xla', moved=5 * 2**20, temporary=2**19, cycles=1_250_000
    ),
    Record(
      **CASE,
      backend='mosaic_tpu',
      moved=3 * 2**20,
      kernels=1,
      collectives={'all-reduce': 2},
    ),
    Record(
      **CASE, backend='mosaic_gpu', problem='cannot be compiled: no such chip'
    ),
  ],
  'v5e:2x2',
  '2026-01-01',
  {'jax': '1'},
  'sana-jax bench kernels',
  {'devices': 2},
)


def test_a_row_has_the_memory_of_one_chip():
  _, plain, kernel = COMPILED.rows(RUN)
  # 1.5 arrays of 4 MiB for two chips.
  assert plain == (
    'glumb_conv',
    'bfloat16 1x128x128x128',
    'forward',
    'xla',
    '3.0',
    '5.0',
    '0.5',
    '1.25',
    '0',
    '',
  )
  assert kernel[3:] == (
    'mosaic_tpu',
    '3.0',
    '3.0',
    '0.0',
    '',
    '1',
    '2 all-reduce',
  )
  assert report.problems(RUN) == [
    'glumb_conv by mosaic_gpu cannot be compiled: no such chip (1 row).'
  ]


def test_json_and_page_hold_everything():
  assert COMPILED.from_json(to_json(RUN)) == RUN
  page = COMPILED.markdown([RUN])
  assert '## v5e:2x2' in page and ('*Compiled* 2026-01-01 with jax 1.' in page)
  assert COMPILED.table(RUN).startswith('v5e:2x2\nop')
  with pytest.raises(UserError) as error:
    COMPILED.from_json('{}')
  assert (error.value.key, error.value.allowed) == (
    '--render',
    ('sana-jax bench',),
  )


def test_only_a_compilers_refusal_is_a_failure():
  assert not report.wrong(RUN)
  record = dataclasses.replace(RUN.records[0], problem='failed: no memory')
  assert report.wrong(dataclasses.replace(RUN, records=[record]))


def test_gpus_do_not_count_bytes_moved():
  record = dataclasses.replace(RUN.records[0], moved=None)
  assert COMPILED.rows(dataclasses.replace(RUN, records=[record]))[1][5] == ''
