"""A failed stage affects itself alone, and a second call resumes."""

import dataclasses
import json
import time

import pytest

from sana_jax.errors import UserError
from sana_jax.tools.bench.chip import report, runner
from sana_jax.tools.bench.chip.report import CHIP
from sana_jax.tools.bench.chip.stages import Stage
from sana_jax.tools.report import Run

# Called in separate processes.
_FUNCTIONS = """
import os, pathlib, signal, time
from sana_jax.errors import UserError

def good(budget, sizes, earlier, seconds):
  yield 'first', {'seen': sorted(earlier), 'left': budget()}

def crash(budget, sizes, earlier):
  yield 'before', {'value': 1}
  os.kill(os.getpid(), signal.SIGSEGV)

def hang(budget, sizes, earlier):
  yield 'before', {'value': 2}
  os.system('sleep 1000')

def memory(budget, sizes, earlier):
  raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to '
                     'allocate 12.30GiB.')
  yield

def refuse(budget, sizes, earlier):
  raise UserError('There are no kernels for a cpu.')
  yield

def second_time(budget, sizes, earlier, flag):
  if not pathlib.Path(flag).exists():
    pathlib.Path(flag).touch()
    raise ValueError('not yet')
  yield 'row', {'value': 3}
"""


@pytest.fixture
def stage(tmp_path, monkeypatch):
  """Makes a stage of a function above."""
  (tmp_path / 'functions_of_stages.py').write_text(_FUNCTIONS)
  monkeypatch.syspath_prepend(tmp_path)
  return lambda name, *arguments, budget=60, needs=(): Stage(
    name, f'functions_of_stages:{name}', budget, needs, arguments
  )


def new():
  return Run([], '', '2026-01-01', {'jax': '1'}, 'sana-jax bench chip')


def by_name(found):
  return {r.name: r for r in found.records}


@pytest.mark.long
def test_each_failure_affects_its_stage_alone(stage, tmp_path):
  path, lines = tmp_path / 'chip.json', []
  stages = [
    stage('crash'),
    stage('hang', budget=15),
    stage('memory'),
    stage('refuse'),
    stage('absent', needs=('no_such_module',)),
    stage('good', 1),
  ]
  found = runner.run(path, new(), 300.0, stages, lines.append)
  assert {r.name: r.status for r in found.records} == {
    'crash': 'failed',
    'hang': 'cut',
    'memory': 'failed',
    'refuse': 'refused',
    'absent': 'missing',
    'good': 'measured',
  }
  assert 'SIGSEGV' in by_name(found)['crash'].reason
  assert (
    by_name(found)['memory'].reason == 'out of memory (allocating 12.30GiB)'
  )
  assert by_name(found)['absent'].reason == 'no_such_module'
  assert 14 < by_name(found)['hang'].seconds < 30
  # Earlier results are kept and passed to later stages.
  assert runner.rows(found)['crash'] == {'before': {'value': 1}}
  assert runner.rows(found)['good']['first']['seen'] == ['crash', 'hang']
  assert 0 < runner.rows(found)['good']['first']['left'] < 60
  assert CHIP.from_json(path.read_bytes()) == found
  assert len(lines) == 6 and lines[-1].startswith('good: measured in ')


@pytest.mark.long
def test_a_second_call_resumes_with_missing_stages(stage, tmp_path):
  path = tmp_path / 'chip.json'
  stages = [stage('second_time', str(tmp_path / 'flag')), stage('good', 1)]
  found = runner.run(path, new(), 100.0, stages[:1], print)
  assert by_name(found)['second_time'].reason == 'ValueError: not yet'
  assert json.loads(path.read_text())['records'][0]['tries'] == 1
  order = []
  found = runner.run(
    path, CHIP.from_json(path.read_bytes()), 100.0, stages, order.append
  )
  assert [line.partition(':')[0] for line in order] == ['good', 'second_time']
  assert {r.status for r in found.records} == {'measured'}
  assert by_name(found)['second_time'].tries == 2
  assert runner.waiting(found, stages) == []


def test_stages_without_time_are_listed(stage, tmp_path):
  path, began = tmp_path / 'chip.json', time.monotonic()
  found = runner.run(path, new(), 1.0, [stage('good', 1)], print)
  assert time.monotonic() - began < 5
  assert report.left(found) == ['- good: not run']
  assert json.loads(path.read_text())['records'][0]['tries'] == 0


@pytest.mark.long
def test_figures_of_other_versions_and_devices_are_not_mixed(stage, tmp_path):
  with pytest.raises(UserError) as error:
    runner.resumed(new(), {'jax': '2'})
  assert error.value.key == '--out'
  assert (error.value.value, error.value.allowed) == (
    {'jax': '1'},
    {'jax': '2'},
  )
  more = {'jax': '1', 'diffusers': '3'}
  assert runner.resumed(new(), more).versions == more
  other = dataclasses.replace(new(), device='a chip')
  with pytest.raises(UserError) as error:
    runner.run(tmp_path / 'chip.json', other, 100.0, [stage('good', 1)], print)
  assert (error.value.key, error.value.value) == ('--out', 'a chip')
