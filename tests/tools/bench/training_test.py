"""The train step is timed on real arrays; its table says what records hold."""

import dataclasses

import pytest

from sana_jax import config
from sana_jax.errors import UserError
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools import tables
from sana_jax.tools.bench import training, training_report
from sana_jax.tools.bench.training_report import Record, Run

RUN = Run(
  training.Request('sana_600m_512', 512, 32), {'data': 1, 'fsdp': 2},
  [Record('sana_jax', {'glumb_conv': 'mosaic_gpu'}, [2., 1.]),
   Record('xla', {}, [4.])], '2026-01-01', 'a chip', {'jax': '1'},
  'sana-jax bench train', forward_flops=10**12, matmul_flops=3e12)
COMPILED = dataclasses.replace(RUN, matmul_flops=None, records=[Record(
  'sana_jax', {}, [], 2**30, 3 * 2**29, {'glumb_conv': 2}, {})])


@pytest.fixture
def tiny(monkeypatch):
  monkeypatch.setitem(config.SANA_SIZES, 'tiny', dict(
    width=32, depth=2, cross_heads=2, head_dim=8, in_channels=4,
    out_channels=4, caption_channels=8, sample_size=2))
  return training.request('tiny', None, batch=8, dtype='float32', text=5)


def test_all_sides_take_turns_from_one_state(tiny):
  found = training.measure(
    tiny, make_mesh({'data': 2, 'fsdp': 4}),
    {'sana_jax': {'relu_linear_attention': 'xla_chunked'}, 'xla': {}},
    repeats=2, count=1)
  assert list(found) == ['sana_jax', 'xla']
  assert all(len(x) == 2 and min(x) > 0 for x in found.values())


def test_a_step_counts_three_forward_passes_of_the_model(tiny):
  # Of one 1x1 product: 8 images of 4 tokens, 32 to 2 * 80 channels, 2 blocks.
  one = 2 * 8 * 4 * 32 * 160 * 2
  assert one < training.forward_flops(tiny) < 20 * one


def test_rows_of_what_was_measured():
  head, ours, theirs = training_report.rows(RUN)
  assert head == ('by', 'seconds', 'images/s', 'TFLOP/s', 'MFU', 'ratio')
  assert ours == ('sana_jax', '1', '32', '3', '50%', '')
  assert theirs == ('xla', '4', '8', '0.75', '12%', '0.25')


def test_rows_of_what_was_compiled():
  assert training_report.rows(COMPILED)[1] == (
    'sana_jax', '1.00', '1.50', '2 glumb_conv', 'none')


def test_json_and_page_hold_everything():
  for run in (RUN, COMPILED):
    assert training_report.from_json(tables.to_json(run)) == run
  page = training_report.markdown([RUN, COMPILED])
  assert '32 images, bfloat16, came, remat, data 1, fsdp 2, glumb_conv by' in (
    page)
  assert '*Measured* 2026-01-01' in page and '*Compiled* 2026-01-01' in page
  with pytest.raises(UserError, match='not what sana-jax bench'):
    training_report.from_json('[]')


@pytest.mark.parametrize('options, said', [
  (dict(model='sana'), '--model=sana is no size; allowed are sana_600m_512'),
  (dict(size=100), '--size=100 must be a multiple of 32'),
  (dict(optimizer='sgd'), "config.optimizer.name='sgd' must be one of"),
])
def test_requests_are_checked(options, said):
  with pytest.raises(UserError, match=said):
    training.request(**dict(dict(
      model='sana_600m_512', size=None, batch=1), **options))
