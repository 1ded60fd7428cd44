"""sana-jax parity: verdicts, exit codes, the page and its JSON."""

import dataclasses
import math
import os
import pathlib
import subprocess
import sys

import pytest

from sana_jax.errors import UserError
from sana_jax.launch import parity as command
from sana_jax.tools.parity import pages
from sana_jax.tools.parity.ledger import Case

ROOT = pathlib.Path(__file__).parents[2]


def broken(seed):
  raise ValueError('the reference said no')


CASES = [
  Case('sana', 'block 1', 'tiny', 'float32', 1e-5, lambda seed: 2e-6),
  Case(
    'sana', 'block 1', '0.6B', 'float32', 1e-5, lambda seed: 3e-6, quick=False
  ),
  Case('dc_ae', 'decode', 'tiny', 'float32', 1e-5, lambda seed: 2e-5),
  Case('gemma2', 'MLP', 'tiny', 'float32', 1e-5, broken),
  Case('text', 'token ids', 'tiny', 'float32', 0.0, lambda seed: 0.0),
]


@pytest.fixture
def cases(monkeypatch):
  """Replaces the command's cases; no reference is needed."""

  def use(*cases):
    monkeypatch.setattr(command, 'all_cases', lambda: list(cases))

  return use


@pytest.mark.long
def test_rows_that_hold_end_with_0_and_a_table(cli, cases):
  cases(CASES[0], CASES[1], CASES[4])
  code, out, _ = cli('parity', '--seed=3')
  assert code == 0
  first, head, *rows, _, last = out.splitlines()
  assert first == 'Comparing 3 rows; repeat with --seed=3.'
  assert head.split()[:4] == ['area', 'what', 'size', 'dtype']
  assert rows[0].split()[:8] == [
    'sana',
    'block',
    '1',
    'tiny',
    'float32',
    '2.0e-06',
    '1.0e-05',
    'ok',
  ]
  assert last.startswith('All 3 rows hold')


@pytest.mark.parametrize('bad', CASES[2:4], ids=lambda c: c.what)
def test_one_bad_row_ends_with_1_and_stands_last(cli, cases, bad):
  cases(bad, CASES[0])
  code, out, _ = cli('parity')
  assert code == 1
  rows = [line for line in out.splitlines() if 'float32' in line]
  assert 'ok' in rows[0] and rows[1].split()[0] == bad.area
  assert '1 OF 2 ROWS FAILED' in out
  assert ('ValueError: the reference said no' in out) == (bad is CASES[3])


def test_quick_and_only_choose_rows_and_list_runs_none(cli, cases):
  cases(*CASES[:3])
  assert cli('parity', '--quick', '--list')[1].splitlines() == [
    'sana: block 1, tiny, float32',
    'dc_ae: decode, tiny, float32',
  ]
  assert cli('parity', '--only=0.6B', '--list')[1].splitlines() == [
    'sana: block 1, 0.6B, float32'
  ]


def test_a_name_that_no_row_has_is_reported(refused, cases):
  cases(*CASES)
  message = refused('parity', '--only=transmogrifier')
  assert (message.key, message.error.value) == ('--only', 'transmogrifier')


def test_seeds_are_fresh_unless_given(cli, cases):
  seeds = []
  cases(dataclasses.replace(CASES[0], measure=lambda s: seeds.append(s) or 0.0))
  for flags in ((), (), ('--seed=9',)):
    cli('parity', *flags)
  assert seeds[0] != seeds[1] and seeds[2] == 9


@pytest.mark.long
def test_the_page_is_made_again_from_its_json(cli, cases, tmp_path):
  cases(*CASES)
  code, _, _ = cli('parity', '--seed=5', '--out', tmp_path / 'docs')
  assert code == 1
  json, page = (tmp_path / f'docs/parity.{kind}' for kind in ('json', 'md'))
  result = pages.from_json(json.read_text())
  assert result.seed == 5 and 'jax' in result.versions
  assert [r.error for r in result.records] == [2e-6, 3e-6, 2e-5, math.inf, 0]
  assert pages.to_json(result) == json.read_text()
  code, _, _ = cli('parity', '--from-json', json, '--out', tmp_path / 'again')
  assert code == 1
  assert (tmp_path / 'again/parity.md').read_text() == page.read_text()
  for text in (
    '| block 1 | tiny | float32 | 2.0e-06 | 1.0e-05 | ok |',
    'FAILED',
    'the reference said no',
    '## Prompts',
  ):
    assert text in page.read_text()


@pytest.mark.parametrize(
  'text',
  [
    b'',
    b'[]',
    b'{}',
    b'{"records": [{}]}',
    b'{"records": [], "seed": 1}',
    b'\xff',
    b'[' * 10**5,
    b'1' * 5000,
  ],
)
def test_a_file_that_is_no_ledger_is_refused(refused, tmp_path, text):
  (tmp_path / 'a.json').write_bytes(text)
  message = refused('parity', '--from-json', tmp_path / 'a.json')
  assert message.key == '--from-json'
  assert message.error.allowed == ('parity.json',)


def test_a_ledger_that_is_not_there_is_refused(refused, tmp_path):
  os.mkfifo(tmp_path / 'fifo.json')
  for there in (tmp_path / 'none.json', tmp_path, tmp_path / 'fifo.json'):
    message = refused('parity', '--from-json', there)
    assert (message.key, message.error.value) == ('--from-json', str(there))


def test_without_the_references_the_extra_is_named(monkeypatch):
  def missing(name):
    raise ModuleNotFoundError(f'No module named {name!r}', name='torch')

  monkeypatch.setattr(command.importlib, 'import_module', missing)
  with pytest.raises(UserError) as error:
    command.all_cases()
  assert (error.value.key, error.value.value) == ('parity', 'torch')


def test_the_command_imports_no_reference_before_it_runs():
  code = (
    'import sys, sana_jax.launch.parity; '
    'sys.exit(len({"torch", "diffusers", "jax"} & set(sys.modules)))'
  )
  assert (
    subprocess.run(
      [sys.executable, '-c', code], cwd=ROOT, check=False
    ).returncode
    == 0
  )


@pytest.mark.fast
def test_every_area_has_a_title():
  assert set(command.AREAS) == set(pages.NAMES)


def test_the_docs_page_is_its_json():
  result = pages.from_json((ROOT / 'docs/parity.json').read_text('utf-8'))
  page = (ROOT / 'docs/parity.md').read_text('utf-8')
  assert pages.markdown(result, 'parity.png') == page
  assert all(record.passed for record in result.records)
  assert {r.area for r in result.records} == set(command.AREAS)
  assert any(not record.quick for record in result.records)
