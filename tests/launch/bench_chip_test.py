"""sana-jax bench chip: limited in time, written, and resumed."""

import json

import pytest

from sana_jax.tools.bench.chip.stages import RATES, STAGES


def read(folder):
  return json.loads((folder / 'chip.json').read_text())


def by_name(folder):
  return {r['name']: r for r in read(folder)['records']}


@pytest.mark.long
def test_it_ends_in_time_lists_what_did_not_run_and_resumes(cli, tmp_path):
  out = tmp_path / 'out'
  run = lambda minutes: cli('bench', 'chip', '--minutes', minutes, '--out', out)
  code, printed, err = run(0.001)
  assert code == 0, err
  assert by_name(out).keys() == {stage.name for stage in STAGES}
  assert {r['status'] for r in by_name(out).values()} <= {'missing', 'not run'}
  assert f'{RATES.name}: not run' in printed.splitlines()
  assert f'- {RATES.name}: not run' in (out / 'chip.md').read_text()
  # As if all but one had been measured since.
  found = read(out)
  for record in found['records']:
    if record['name'] != RATES.name:
      record['status'] = 'measured'
  (out / 'chip.json').write_text(json.dumps(found))
  code, printed, err = run(2)
  assert code == 0, err
  results = by_name(out)
  assert results[RATES.name]['status'] == 'measured'
  assert results[RATES.name]['rows']['bf16']['rate'] > 0
  assert f'{RATES.name}: measured in ' in printed
  page = (out / 'chip.md').read_text()
  assert '`sana-jax bench chip --minutes 0.001`' in page
  assert run(2)[0] == 0
  assert by_name(out) == results
  (out / 'chip.md').unlink()
  assert cli('bench', 'chip', '--render', out)[0] == 0
  assert (out / 'chip.md').read_text() == page


def test_a_bad_value_is_a_one_line_error(refused):
  assert refused('bench', 'chip', '--minutes', '0').key == '--minutes'
  assert refused('bench', 'chip', '--render', 'nowhere').key == '--render'
