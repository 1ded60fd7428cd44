"""sana-jax bench: a table and its JSON, or one sentence."""

import json

import pytest


def test_a_stage_is_measured_printed_and_written(cli, tmp_path):
  code, out, err = cli(
    'bench', 'sample', '--model', 'sana_600m_512', '--size', '32',
    '--stages', 'decode', '--against', 'plain', '--repeats',
    '2', '--out', tmp_path)
  assert code == 0, err
  title, head, row, plain = out.splitlines()
  assert title.startswith('sana_600m_512, 32 x 32 px, 20 steps, batch 1')
  assert head.split() == ['stage', 'by', 'seconds', 'images/s', 'TFLOP/s', 'of',
                          'peak', 'GiB', 'ratio']
  assert row.split()[:2] == ['decode', 'sana_jax']
  (file,) = tmp_path.glob('*.json')
  found = json.loads(file.read_text())
  assert plain.split()[:2] == ['decode', 'plain']
  record = found['records'][0]
  assert len(record['seconds']) == 2 and min(record['seconds']) > 0
  assert record['first_seconds'] > min(record['seconds'])
  assert 0 < record['flops'] / min(record['seconds']) < 2 * (
    found['matmul_flops'])
  assert found['command'] == (
    'sana-jax bench sample --model sana_600m_512 --size 32 --stages decode '
    '--against plain --repeats 2')
  page = (tmp_path / 'sampling.md').read_text()
  assert f'`{found["command"]}`' in page
  (tmp_path / 'sampling.md').unlink()
  assert cli('bench', 'sample', '--render', tmp_path)[0] == 0
  assert (tmp_path / 'sampling.md').read_text() == page


@pytest.mark.parametrize('flags, said', [
  (['--stages', 'denoise,paint'], "--stages has 'paint'; allowed are text"),
  (['--model', 'sana'], "The zoo has no 'sana'"),
  (['--size', '100'], '--size=100 must be a multiple of 32'),
  (['--repeats', '0'], "--repeats: '0' is not allowed"),
  (['--against', 'torch'], "--against: invalid choice: 'torch'"),
  (['--render', 'nowhere'], 'nowhere has no JSON file of sana-jax bench'),
])
def test_a_bad_value_is_one_sentence(flags, said, refused):
  assert said in refused('bench', 'sample', *flags)
