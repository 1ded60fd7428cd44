"""Variants run on their own, and one that fails costs itself alone."""

import contextlib
import dataclasses

import jax
import pytest

from sana_jax import config
from sana_jax.analysis import profile_breakdown as losses
from sana_jax.errors import UserError
from sana_jax.tools import tables
from sana_jax.tools.bench import matrix, matrix_report, training
from sana_jax.tools.bench.matrix import Facts, Record, Variant

ASKED = training.Request('sana_600m_512', 512, 128, remat='none')
FACTS = Facts('a chip', {'data': 1, 'fsdp': 4}, 1e12, 2e12)
RUN = matrix_report.Run(
  [Record(Variant(ASKED, 'off'), [4., 2.], 10**12, times=[
     losses.Time('elementwise', 1., 1., 'blocks/gate', .25),
     losses.Time('products', 1., .5)], peak_bytes=3 * 2**30),
   Record(Variant(ASKED, 'on'), [1.], 10**12, unprofiled='ValueError: torn'),
   Record(Variant(dataclasses.replace(ASKED, remat='full'), 'on'), [], 0,
          'out of memory')], FACTS, '2026-01-01', {'jax': '1'},
  'sana-jax bench matrix')


def test_all_combinations_are_asked_for():
  found = matrix.variants(
    [('sana_600m_512', 8), ('sana_1600m_1024', 4)], ['none', 'dots', 'full'],
    ['off', 'on'], size=None)
  assert len(set(found)) == 2 * 3 * 2
  assert {(v.request.size, v.request.batch) for v in found} == {
    (512, 8), (1024, 4)}


@pytest.mark.parametrize('asked, said', [
  (([('sana', 8)], ['none'], ['off']), '--model=sana is no size'),
  (([('sana_600m_512', 8)], ['some'], ['off']), '--remat=some is unknown'),
  (([('sana_600m_512', 8)], ['none'], ['xla']),
   "--with-kernels has 'xla'; allowed are off, on")])
def test_variants_are_checked_before_any_runs(asked, said):
  with pytest.raises(UserError, match=said):
    matrix.variants(*asked, size=None)


class Sides:
  """Stands for processes; each answers with what is next, or raises it."""

  def __init__(self, answers):
    self.answers, self.open = list(answers), 0

  @contextlib.contextmanager
  def start(self, make, *args):
    assert self.open == 0, 'two at once would share the memory'
    self.open += 1
    try:
      yield self
    finally:
      self.open -= 1

  def ask(self, method, variant, repeats, peak):
    answer = self.answers.pop(0)
    if isinstance(answer, Exception):
      raise answer
    return Record(variant, [answer], 1)


def test_a_variant_that_fails_is_told_and_the_next_one_runs(monkeypatch):
  sides = Sides([
    RuntimeError('in Worker:\nTraceback ...\njax.errors.JaxRuntimeError: '
                 'RESOURCE_EXHAUSTED: Out of memory while trying to allocate '
                 '12.30GiB.\n[tf-allocator-allocation-error]'),
    1., UserError('A process of the benchmark has died.'),
    RuntimeError('Traceback ...\n  x = f(x)\nValueError: no\nmore words'), 2.])
  monkeypatch.setattr(matrix.processes, 'start', sides.start)
  asked = [Variant(dataclasses.replace(ASKED, batch=b), 'on') for b in range(5)]
  found = list(matrix.records(asked, {'fsdp': -1}, 3, 1e12))
  assert [r.variant for r in found] == asked
  assert [(r.failed, r.seconds) for r in found] == [
    ('out of memory (allocating 12.30GiB)', []), ('', [1.]),
    ('A process of the benchmark has died.', []), ('ValueError: no', []),
    ('', [2.])]


def test_what_a_process_raises_is_why_its_variant_failed():
  (found,) = matrix.records(
    [Variant(ASKED, 'off')], {'fsdp': -7}, 1, 1e12)
  assert found.seconds == [] and 'mesh' in found.failed


def test_a_worker_times_and_profiles_a_variant(monkeypatch):
  monkeypatch.setitem(config.SANA_SIZES, 'tiny', dict(
    width=32, depth=2, cross_heads=2, head_dim=8, in_channels=4,
    out_channels=4, caption_channels=8, sample_size=2))
  worker = matrix.Worker(
    {'data': 2, 'fsdp': 4}, jax.config.jax_compilation_cache_dir)
  (off, on) = matrix.variants(
    [('tiny', 8)], ['full'], ['off', 'on'], size=None, dtype='float32', text=5,
    optimizer='lion', depth=1)
  found = worker.measure(off, 2, 1e12)
  assert len(found.seconds) == 2 and min(found.seconds) > 0
  assert found.forward_flops == training.forward_flops(off.request) > 0
  assert {'products', 'elementwise', 'collectives', 'idle'} <= {
    t.kind for t in found.times}
  assert found.unprofiled == '' and found.times[0].lost > 0
  with pytest.raises(UserError, match='There are no kernels for a cpu'):
    worker.measure(on, 2, 1e12)


def test_mfu_is_by_both_peaks_and_over_all_chips():
  # 3e12 operations in 2 s on 4 chips.
  assert matrix_report.mfu(RUN, RUN.records[0]) == (3 / 2 / 4 / 2, 3 / 2 / 4)


def test_rows_say_what_failed():
  head, off, on, failed = matrix_report.rows(RUN)
  assert off == ('sana_600m_512', '512', '128', 'none', 'off', '2', '64',
                 '18.8%', '37.5%', '3.0', '')
  assert on[5:10] == ('1', '128', '37.5%', '75.0%', '')
  assert failed[3:] == ('full', 'on', '', '', '', '', '', 'out of memory')
  assert len({len(r) for r in (head, off, on, failed)}) == 1


def test_the_fastest_variant_names_its_losses():
  alone = dataclasses.replace(RUN, records=RUN.records[:1])
  assert matrix_report.findings(alone) == [
    'sana_600m_512: remat none with kernels off is the fastest, MFU 18.8% (the '
    'target of 50% is not met); it loses most to',
    '1. elementwise: 50% of the step, 25% of it in blocks/gate',
    '2. products below the peak: 25% of the step']
  assert 'its profile failed: ValueError: torn' in (
    matrix_report.findings(RUN)[0])


def test_json_and_page_hold_everything():
  assert matrix_report.from_json(tables.to_json(RUN)) == RUN
  assert '| full | on |' in matrix_report.markdown([RUN])
  assert matrix_report.table(RUN).splitlines()[-1].endswith('out of memory')
  for text in ('{}', '[]', '[' * 10**5, '1' * 5000, b'\xff'):
    with pytest.raises(UserError, match='not what sana-jax bench'):
      matrix_report.from_json(text)
