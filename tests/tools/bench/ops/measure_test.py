"""Wrong backends are not timed, and tables hold the records."""

import dataclasses
import sys
import types

import jax.numpy as jnp
import pytest

from sana_jax.errors import UserError
from sana_jax.kernels import relu_linear_attention, tuning, UnsupportedError
from sana_jax.kernels.dispatch import Op
from sana_jax.tools.bench.ops import cases, measure, report, tune
from sana_jax.tools.bench.ops.cases import Case
from sana_jax.tools.bench.ops.measure import Record
from sana_jax.tools.bench.ops.report import MEASURED
from sana_jax.tools.report import Run, to_json

pytestmark = pytest.mark.fast

CASE = Case('relu_linear_attention', (1, 8, 2, 4), 'float32', 'a model 64 px')


def halved(q, k, v):
  return relu_linear_attention(q, k, v) / 2


def refuses(q, k, v):
  raise UnsupportedError('no such chip')


def breaks(q, k, v):
  raise ValueError('a bug')


def right(q, k, v):
  chosen = tuning.choose(
    CASE.op, 'right', False, q.shape, q.dtype, offset=0, factor=1
  )
  return relu_linear_attention(q, k, v) * chosen['factor'] + chosen['offset']


@pytest.fixture
def backends(monkeypatch):
  """The op with backends of which only one can be used."""
  names = dict(halved=halved, refuses=refuses, breaks=breaks, right=right)
  monkeypatch.setitem(
    sys.modules,
    'measured',
    types.SimpleNamespace(
      CANDIDATES={'offset': (0, 1), 'factor': (1, 2)}, **names
    ),
  )
  monkeypatch.setitem(
    cases.OPS,
    CASE.op,
    Op(CASE.op, relu_linear_attention, {n: f'measured:{n}' for n in names}, {}),
  )
  return measure.implementations(CASE.op)


@pytest.mark.long
@pytest.mark.parametrize('training', [False, True])
def test_only_correct_backends_are_timed(backends, training):
  found = {
    r.backend: r
    for r in measure.measure(
      CASE, training, backends, rounds=2, others={'torch': lambda: 3.0}
    )
  }
  assert [len(found[n].seconds) for n in (*backends, 'torch')] == [
    2,
    0,
    0,
    0,
    2,
    2,
  ]
  assert found['halved'].problem == 'wrong: its error is 5.0e-01'
  assert found['refuses'].problem == 'cannot run: no such chip'
  assert found['breaks'].problem == 'failed: ValueError: a bug'
  assert found['right'].error < 1e-6 and found['torch'].error is None


@pytest.mark.long
def test_tuning_rejects_values_that_give_wrong_results(backends):
  assert len(tune.candidates(CASE.op, 'right')) == 5
  found = tune.tune(CASE, False, 'right', 1)
  assert found.values in ({}, {'offset': 0, 'factor': 1}) and found.tried == 5
  assert tune.tune(CASE, False, 'refuses', 1) is None
  with pytest.raises(ValueError, match='a bug'):
    tune.tune(CASE, False, 'breaks', 1)
  with pytest.raises(UserError) as error:
    tune.tune(CASE, False, 'halved', 1)
  assert (error.value.key, error.value.value) == (CASE.op, 'halved')


def test_a_backend_without_choices_is_not_tuned():
  case = Case('glumb_conv', (1, 2, 2, 4), 'float32')
  assert tune.candidates(case.op, 'xla_jvp') == [{}]
  assert tune.tune(case, False, 'xla_jvp', 1) is None


def test_the_table_of_a_device_keeps_values_better_than_the_default():
  found = tune.Found({'chunk': 256}, 1.0, 2.0, 6)
  old = {'glumb_conv': {'mosaic_tpu': {'x': {'rows': 2}}}}
  table = tune.merged(old, CASE, True, 'xla_chunked', found)
  key = 'backward float32 1x8x2x4'
  assert table == old | {CASE.op: {'xla_chunked': {key: {'chunk': 256}}}}
  table = tune.merged(
    table, CASE, True, 'xla_chunked', found._replace(values={})
  )
  assert table == old | {CASE.op: {'xla_chunked': {}}}


def records():
  shape = (1, 1000, 10, 32)  # 1.28 MB an array.
  base = Record(
    'relu_linear_attention',
    shape,
    'float32',
    'a model',
    False,
    'xla',
    seconds=[4e-3, 2e-3],
    error=1e-7,
  )
  return [
    base,
    dataclasses.replace(base, backend='fast', seconds=[1e-3]),
    dataclasses.replace(
      base,
      backend='none',
      seconds=[],
      error=None,
      problem='cannot run: no chip',
    ),
    dataclasses.replace(base, backend='torch', seconds=[4e-3], error=None),
  ]


RUN = Run(
  records(),
  'a chip',
  '2026-01-01',
  {'jax': '1'},
  'sana-jax bench kernels',
  {'copy_bytes': 10.24e9, 'matmul_flops': 81.92e9},
)


def test_a_row_has_rates_shares_and_the_ratio_to_xla():
  head, plain, fast, torch = MEASURED.rows(RUN)
  assert head[-2:] == ('by XLA', 'error')
  assert plain == (
    'relu_linear_attention',
    'float32 1x1000x10x32',
    'forward',
    'xla',
    '2',
    '2.56',
    '25%',
    '0.0205',
    '25%',
    '1.00',
    '1e-07',
  )
  assert fast[4:8] == ('1', '5.12', '50%', '0.041') and fast[9] == '0.50'
  assert torch[9:] == ('2.00', '')
  assert report.problems(RUN) == [
    'relu_linear_attention by none cannot run: no chip (1 row).'
  ]
  assert not report.wrong(RUN)
  worse = dataclasses.replace(RUN.records[0], problem='wrong: its error is 1')
  assert report.wrong(dataclasses.replace(RUN, records=[worse]))


def test_json_and_page_hold_everything():
  assert MEASURED.from_json(to_json(RUN)) == RUN
  page = MEASURED.markdown([RUN])
  assert '| relu_linear_attention | float32 1x1000x10x32 | forward | fast' in (
    page
  )
  assert '*Measured* 2026-01-01 with jax 1.' in page and '32: a model' in page
  with pytest.raises(UserError) as error:
    MEASURED.from_json('{}')
  assert (error.value.key, error.value.allowed) == (
    '--render',
    ('sana-jax bench',),
  )


def test_errors_are_those_of_the_worst_array():
  ones = jnp.ones(4)
  assert measure.relative_error((ones, ones), (ones, 2 * ones)) == 0.5
