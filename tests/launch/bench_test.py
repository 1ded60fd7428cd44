"""sana-jax bench: a table and its JSON, or a one-line error."""

import json

import pytest

from sana_jax.tools.bench import jax_side
from sana_jax.tools.bench.request import request


@pytest.mark.long
def test_a_stage_is_measured_printed_and_written(
  cli, in_this_process, quick, tmp_path
):
  code, out, err = cli(
    'bench',
    'sample',
    '--model',
    'shapes',
    '--size',
    '32',
    '--stages',
    'decode',
    '--against',
    'xla',
    '--kernels',
    'relu_linear_attention=xla_chunked',
    '--repeats',
    '2',
    '--out',
    tmp_path,
  )
  assert code == 0, err
  title, head, row, plain = out.splitlines()
  assert title.startswith('shapes, 32 x 32 px, 20 steps, batch 1')
  assert head.split() == [
    'stage',
    'by',
    'seconds',
    'images/s',
    'TFLOP/s',
    'of',
    'peak',
    'GiB',
    'ratio',
  ]
  assert row.split()[:2] == ['decode', 'sana_jax']
  (file,) = tmp_path.glob('*.json')
  found = json.loads(file.read_text())
  assert plain.split()[:2] == ['decode', 'xla']
  record = found['records'][0]
  assert len(record['seconds']) == 2 and min(record['seconds']) > 0
  assert record['first_seconds'] > min(record['seconds'])
  assert (
    0
    < record['flops'] / min(record['seconds'])
    < 2 * (found['facts']['matmul_flops'])
  )
  assert found['command'] == (
    'sana-jax bench sample --model shapes --size 32 --stages decode '
    '--against xla --kernels relu_linear_attention=xla_chunked --repeats 2'
  )
  page = (tmp_path / 'sampling.md').read_text()
  assert f'`{found["command"]}`' in page
  (tmp_path / 'sampling.md').unlink()
  assert cli('bench', 'sample', '--render', tmp_path)[0] == 0
  assert (tmp_path / 'sampling.md').read_text() == page


@pytest.mark.long
def test_a_sprint_is_compared_with_guided_steps_of_its_teacher(
  cli, in_this_process, quick, tmp_path
):
  flags = '--model shapes-sprint --size 32 --steps 1 --stages denoise'
  code, out, err = cli(
    *('bench', 'sample', *flags.split(), '--against', 'teacher'),
    *('--repeats', '1', '--out', tmp_path),
  )
  assert code == 0, err
  assert out.startswith('shapes-sprint, 32 x 32 px, 1 step, batch 1')
  (file,) = tmp_path.glob('*.json')
  few, many = json.loads(file.read_text())['records']
  assert (few['side'], many['side']) == ('sana_jax', 'teacher')
  flow = jax_side.load('denoise', request('shapes', 32, 20))
  assert many['flops'] == flow.flops > few['flops']


@pytest.mark.parametrize(
  'flags, key',
  [
    (['--model', 'shapes', '--against', 'teacher'], '--against'),
    (['--model', 'shapes-sprint', '--against', 'plain'], '--against'),
    (['--stages', 'denoise,paint'], '--stages'),
    (['--model', 'sana'], 'model'),
    (['--size', '100'], '--size'),
    (['--repeats', '0'], '--repeats'),
    (['--against', 'torch'], '--against'),
    (['--render', 'nowhere'], '--render'),
  ],
)
def test_a_bad_value_is_a_one_line_error(flags, key, refused):
  assert refused('bench', 'sample', *flags).key == key


SMALL = ['--models', 'sana_600m_512', '--sizes', '64', '--repeats', '1']


@pytest.mark.long
def test_kernels_are_measured_printed_and_written(cli, rates, tmp_path):
  code, out, err = cli('bench', 'kernels', *SMALL, '--out', tmp_path)
  assert code == 0, err
  limits, head, *rows = out.splitlines()
  assert 'a large copy moves' in limits and head.split()[:4] == [
    'op',
    'shape',
    'pass',
    'by',
  ]
  assert [row.split()[0] for row in rows[:8]] == (
    4 * ['relu_linear_attention'] + 4 * ['glumb_conv']
  )
  assert {row.split()[2] for row in rows[:4]} == {'1x4x36x32'}
  assert 'by mosaic_tpu cannot run: mosaic_tpu runs on TPUs' in out
  (file,) = tmp_path.glob('kernels-*.json')
  found = json.loads(file.read_text())
  assert found['command'] == 'sana-jax bench kernels ' + ' '.join(SMALL)
  timed = [r for r in found['records'] if r['seconds']]
  assert len(timed) == 8 and all(min(r['seconds']) > 0 for r in timed)
  page = (tmp_path / 'kernels.md').read_text()
  (tmp_path / 'kernels.md').unlink()
  assert cli('bench', 'kernels', '--render', tmp_path)[0] == 0
  assert (tmp_path / 'kernels.md').read_text() == page


@pytest.mark.long
def test_tuning_writes_a_table_for_this_kind_of_device(cli, rates, tmp_path):
  code, out, err = cli(
    'bench',
    'kernels',
    *SMALL,
    '--ops',
    'relu_linear_attention',
    '--passes',
    'forward',
    '--tune',
    '--tuned',
    tmp_path,
  )
  assert code == 0, err
  assert out.startswith(
    'xla_chunked relu_linear_attention float32 1x4x36x32 forward: '
  )
  assert list(json.loads((tmp_path / 'cpu.json').read_text())) == [
    'relu_linear_attention'
  ]


@pytest.mark.parametrize(
  'flags, key',
  [
    (['--ops', 'softmax'], '--ops'),
    (['--passes', 'backward'], '--passes'),
    (['--backends', 'triton'], '--backends'),
    (['--sizes', '100'], '--sizes'),
    (['--sizes', 'big'], '--sizes'),
    (['--models', 'sana'], 'model'),
    (['--compile-for', 'v1'], 'topology'),
    (['--render', 'nowhere'], '--render'),
  ],
)
def test_a_bad_value_for_kernels_is_a_one_line_error(flags, key, refused):
  assert refused('bench', 'kernels', *flags).key == key


def test_a_missing_or_unknown_kind_is_a_one_line_error(refused):
  assert 'WHAT' in refused('bench')
  assert "'speed'" in refused('bench', 'speed')
  assert '--against' in refused('bench', 'kernels', '--x')
