"""The table of deliberate faults fits the code; its runner reports rightly."""

import collections
import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
AREAS = [
  *('models', 'samplers', 'optimizer', 'data'),
  *('checkpoints', 'sharding', 'weights'),
]


@pytest.fixture(scope='module')
def mutations():
  """The module beside this file: tests are no package."""
  path = pathlib.Path(__file__).with_name('mutations.py')
  spec = importlib.util.spec_from_file_location('mutations', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def faults(mutations):
  return mutations.read(ROOT)[0]


def test_thirty_faults_cover_every_area(mutations, faults):
  assert mutations.read(ROOT)[1] == 29
  assert len({f.id for f in faults}) == len(faults) == 30
  areas = collections.Counter(f.area for f in faults)
  assert list(areas) == AREAS and min(areas.values()) >= 4


def test_each_fault_changes_one_place_of_the_code(faults):
  wrong = [
    f'{fault.id}: {count} of `old` in {fault.file}'
    for fault in faults
    if (count := (ROOT / fault.file).read_text().count(fault.old)) != 1
  ]
  assert not wrong
  for fault in faults:
    assert fault.file.startswith(('sana_jax/', 'kernels/'))
    text = (ROOT / fault.file).read_text()
    compile(text.replace(fault.old, fault.new), fault.file, 'exec')


def test_the_tests_of_each_fault_exist(faults):
  for fault in faults:
    for test in fault.tests:
      path, _, name = test.partition('::')
      name, _, _ = name.partition('[')  # The parameters.
      assert (ROOT / path).exists(), test
      assert not name or f'def {name}(' in (ROOT / path).read_text(), test
    assert fault.tests and fault.fault.endswith('.')


@pytest.mark.long
def test_tests_with_parameters_are_collected(faults):
  named = sorted({t for f in faults for t in f.tests if '[' in t})
  found = subprocess.run(
    [sys.executable, '-m', 'pytest', '-q', '--collect-only', *named],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert named and found.returncode == 0, found.stdout


TABLE = """
least = 2
[[faults]]
id = 'sign'
area = 'sums'
fault = 'A difference.'
file = 'sums.py'
old = 'a + b'
new = 'a - b'
tests = ['sums_test.py']
[[faults]]
id = 'unseen'
area = 'sums'
fault = 'The wrong text.'
file = 'sums.py'
old = "'sum'"
new = "'SUM'"
tests = ['sums_test.py::test_sum']
[[faults]]
id = 'syntax'
area = 'other'
fault = 'No test runs.'
file = 'sums.py'
old = 'return'
new = 'retour'
tests = ['sums_test.py']
"""


@pytest.fixture
def project(tmp_path):
  """A function, its test, and three faults of it."""
  root = tmp_path / 'project'
  (root / 'tests').mkdir(parents=True)
  (root / 'tests' / 'mutations.toml').write_text(TABLE)
  (root / 'sums.py').write_text("NAME = 'sum'\ndef add(a, b): return a + b\n")
  (root / 'sums_test.py').write_text(
    'import sums\n\n\ndef test_sum():\n  assert sums.add(2, 1) == 3\n'
  )
  return root


@pytest.mark.long
def test_a_fault_is_caught_and_another_survives(
  mutations, project, tmp_path, capsys
):
  before = (project / 'sums.py').read_bytes()
  file = tmp_path / 'results.json'
  assert mutations.main(['--json', str(file)], project) == 1
  found = {row['id']: row['result'] for row in json.loads(file.read_text())}
  assert found == {'sign': 'caught', 'unseen': 'survived', 'syntax': 'broken'}
  printed = capsys.readouterr().out
  assert '1 of 3 faults are caught.' in printed and 'min left' in printed
  assert (project / 'sums.py').read_bytes() == before


def test_one_fault_may_survive_but_none_of_a_selection(mutations, faults):
  assert mutations.allowed_misses(faults, faults, 29) == 1
  assert mutations.allowed_misses(faults[:5], faults, 29) == 0
  chosen = mutations.chosen(faults, ['ema_decay'], ['samplers'])
  assert [f.id for f in chosen if f.area != 'samplers'] == ['ema_decay']
  assert len(chosen) == 1 + sum(f.area == 'samplers' for f in faults)


@pytest.mark.long
def test_tests_that_fail_without_a_fault_are_refused(
  mutations, project, capsys
):
  (project / 'sums.py').write_text('def add(a, b): return a - b  # a + b\n')
  assert mutations.main(['--only', 'sign'], project) == 2
  printed = capsys.readouterr()
  assert 'tests fail without any fault' in printed.err
  assert 'caught' not in printed.out


def test_an_unknown_name_is_refused_with_the_known_ones(
  mutations, project, capsys
):
  assert mutations.main(['--area', 'sumz'], project) == 2
  assert "'sumz' is no area or id" in capsys.readouterr().err


@pytest.mark.parametrize(
  'code, hangs, result',
  [
    (1, False, 'caught'),
    (0, False, 'survived'),
    (2, False, 'broken'),
    (None, False, 'hung'),
    (None, True, 'caught'),
  ],
)
def test_a_fault_is_caught_by_a_failed_test_alone(
  mutations, code, hangs, result
):
  assert mutations.result(code, hangs) == result


@pytest.mark.long
def test_a_run_that_does_not_end_is_killed(mutations, project):
  (project / 'sums_test.py').write_text(
    'import time\ndef test_sum(): time.sleep(600)\n'
  )
  code, seconds, _ = mutations.run(project, ['sums_test.py'], 2)
  assert code is None and seconds < 60


def test_help_describes_the_command():
  done = subprocess.run(
    [ROOT / 'launch' / 'mutations', '--help'], capture_output=True, text=True
  )
  assert done.returncode == 0 and 'deliberate faults' in done.stdout
