"""sana-jax bench chip: half a minute on a CPU, written, and resumed."""

import json
import time


def read(folder):
  found = json.loads((folder / 'chip.json').read_text())
  return {r['name']: r for r in found['records']}


def test_it_ends_in_time_lists_what_did_not_run_and_resumes(process, tmp_path):
  out, began = tmp_path / 'out', time.monotonic()
  code, printed, err = process('bench', 'chip', '--minutes', '.5', '--out', out)
  assert code == 0, err
  assert time.monotonic() - began < 60
  results = read(out)
  assert results['device rates']['status'] == 'measured'
  assert results['device rates']['rows']['bf16']['rate'] > 0
  assert results['request of 8, diffusers']['status'] in ('missing', 'not run')
  assert 'request of 8, diffusers: ' in printed
  page = (out / 'chip.md').read_text()
  assert '`sana-jax bench chip --minutes 0.5`' in page
  code, printed, err = process(
    'bench', 'chip', '--minutes', '.05', '--out', out
  )
  assert code == 0, err
  assert read(out)['device rates'] == results['device rates']
  (out / 'chip.md').unlink()
  assert process('bench', 'chip', '--render', out)[0] == 0
  assert (out / 'chip.md').read_text() == page


def test_a_bad_value_is_a_one_line_error(refused):
  assert "--minutes: '0' is not allowed" in refused(
    'bench', 'chip', '--minutes', '0'
  )
  assert 'nowhere has no JSON file of this command' in refused(
    'bench', 'chip', '--render', 'nowhere'
  )
