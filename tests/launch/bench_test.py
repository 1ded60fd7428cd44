"""sana-jax bench: a table and its JSON, or a one-line error."""

import contextlib
import dataclasses
import json

import pytest

from sana_jax import kernels
from sana_jax.analysis import ceilings, device
from sana_jax.tools.bench import processes, request, step


@pytest.fixture
def in_this_process(monkeypatch):
  """Sides are served here; their processes are tested with `step`."""

  class Here:
    def __init__(self, make, args):
      self.held = make(*args)

    def call(self, method, *args):
      return getattr(self.held, method)(*args)

  monkeypatch.setattr(
    processes,
    'start',
    lambda make, *args: contextlib.nullcontext(Here(make, args)),
  )


@pytest.fixture
def quick(monkeypatch):
  """Few calls a measurement."""
  monkeypatch.setattr(device, 'SECONDS', 1e-3)


@pytest.fixture
def rates(quick, monkeypatch):
  """Rates of the device that are not measured again here."""
  monkeypatch.setattr(device, 'matmul_rate', lambda dtype: 1e12)
  monkeypatch.setattr(device, 'copy_rate', lambda: 1e10)
  monkeypatch.setattr(
    ceilings, 'measure', lambda dtype: {'flops': 1e12, 'memory_rate': 1e10}
  )


@pytest.fixture
def small(monkeypatch):
  """The shipped model in place of one of the zoo."""
  monkeypatch.setattr(
    request,
    'request',
    lambda model, size, **more: request.Request(
      request.SMALL, size, size, **more
    ),
  )


@pytest.mark.long
def test_a_stage_is_measured_printed_and_written(
  cli, in_this_process, quick, small, tmp_path
):
  code, out, err = cli(
    'bench',
    'sample',
    '--model',
    'sana_600m_512',
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
    'sana-jax bench sample --model sana_600m_512 --size 32 --stages decode '
    '--against xla --kernels relu_linear_attention=xla_chunked --repeats 2'
  )
  page = (tmp_path / 'sampling.md').read_text()
  assert f'`{found["command"]}`' in page
  (tmp_path / 'sampling.md').unlink()
  assert cli('bench', 'sample', '--render', tmp_path)[0] == 0
  assert (tmp_path / 'sampling.md').read_text() == page


@pytest.mark.parametrize(
  'flags, key',
  [
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


TINY = (
  'shapes:quick+batch_size=8+model.depth=1+model.unroll=1+model.width=32'
  '+model.cross_heads=1'
)


@pytest.mark.long
def test_steps_are_measured_printed_and_written(
  cli, in_this_process, rates, tmp_path
):
  flags = [
    '--configs',
    TINY,
    '--kernels',
    'glumb_conv=xla_jvp',
    '--repeats',
    '1',
  ]
  code, out, err = cli('bench', 'step', *flags, '--out', tmp_path)
  assert code == 0, err
  title, head, ours, *_ = out.splitlines()
  assert title.startswith('CPU') and head.split()[:3] == [
    'config',
    'by',
    'remat',
  ]
  assert ours.split()[:2] == [TINY, 'glumb_conv=xla_jvp']
  assert f'1/1 {TINY} by glumb_conv=xla_jvp: ' in err
  (file,) = tmp_path.glob('step-cpu-*.json')
  found = json.loads(file.read_text())
  assert found['command'] == f'sana-jax bench step {" ".join(flags)}'
  assert [r['predicted']['total'] > 0 for r in found['records']] == [True]
  page = (tmp_path / 'step.md').read_text()
  (tmp_path / 'step.md').unlink()
  assert cli('bench', 'step', '--render', tmp_path)[0] == 0
  assert (tmp_path / 'step.md').read_text() == page


@pytest.fixture
def variants(monkeypatch):
  """Variants requested of worker processes, which are replaced."""
  found = []

  def records(variants, repeats, profiled):
    for variant in variants:
      found.append(variant)
      config = variant.config
      for side in variant.sides:
        record = step.Record(
          variant.name,
          side,
          config['batch_size'],
          config['dtype'],
          config['model']['remat'],
        )
        yield (
          dataclasses.replace(record, failed='out of memory')
          if (config['batch_size'] == 13)
          else dataclasses.replace(
            record,
            device='a chip',
            seconds=[2.0],
            needed_bytes=2**30,
            used_bytes=2**30,
            model_flops=3 * 10**9,
            predicted={'total': 1.0, 'compute': 1.0, 'memory': 0.0},
            ceilings={'flops': 1e9, 'memory_rate': 1e9},
          )
        )

  monkeypatch.setattr(step, 'records', records)
  return found


@pytest.mark.long
def test_a_sweep_has_each_policy_with_kernels_off_and_on(
  cli, variants, tmp_path
):
  code, out, err = cli('bench', 'step', '--sweep', '--out', tmp_path)
  assert code == 0, err
  assert [v.config['model']['remat'] for v in variants] == 2 * [
    'none',
    'none',
    'dots',
    'dots',
    'full',
    'full',
  ]
  # Each has a process of its own.
  assert [list(v.sides.values()) for v in variants] == 6 * [['off'], ['on']]
  assert len({v.config['model']['width'] for v in variants}) == 2
  assert out.count('kernels on') == 6 and '12/12' in err
  assert [p.name for p in tmp_path.glob('*.json')] == [
    'step-a-chip-sana_600m_512-batch_size=128-sana_1600m_1024-batch_size=32-'
    'sweep.json'
  ]


def test_a_side_without_kernels_alternates_with_the_requested(cli, variants):
  argv = '--configs', 'shapes', '--kernels', 'glumb_conv=xla_jvp'
  code, out, err = cli('bench', 'step', *argv, '--against', 'xla')
  assert code == 0, err
  (variant,) = variants
  assert list(variant.sides) == ['glumb_conv=xla_jvp', 'xla']
  assert variant.sides['glumb_conv=xla_jvp'] == {'glumb_conv': 'xla_jvp'}
  assert variant.sides['xla'] == dict.fromkeys(kernels.OPS, 'xla')
  assert [x.split()[1] for x in out.splitlines()[2:4]] == [*variant.sides]
  assert '2/2 shapes by xla: 2 s' in err


def test_plans_are_listed_with_their_steps(cli, variants, tmp_path):
  names = 'shapes,shapes:quick+batch_size=8+model.remat=full'
  code, out, err = cli(
    'bench',
    'step',
    '--against-plan',
    '--configs',
    names,
    '--repeats',
    '2',
    '--note',
    'Quiet.',
    '--out',
    tmp_path,
  )
  assert code == 0, err
  assert [v.config['batch_size'] for v in variants] == [32, 8]
  assert [line.split()[0] for line in out.splitlines()[1:4]] == [
    'config',
    *names.split(','),
  ]
  found = json.loads((tmp_path / 'plan-a-chip.json').read_text())
  assert found['command'] == (
    f'sana-jax bench step --configs {names} --against-plan --repeats 2'
  )
  page = (tmp_path / 'plan.md').read_text()
  assert '| -50% | 1.000 | 1.000 | +0.0% |' in page and 'Quiet.' in page


def test_four_configs_that_differ_are_planned_by_default(cli, variants):
  assert cli('bench', 'step', '--against-plan')[0] == 0
  assert len(variants) == 4
  configs = [variant.config for variant in variants]
  assert len({c['model']['width'] for c in configs}) == 3
  assert {c['model']['remat'] for c in configs} >= {'none', 'full'}
  assert {c['dtype'] for c in configs} == {'float32'}


def test_where_one_fails_the_others_are_written(cli, variants, tmp_path):
  code, out, _ = cli(
    'bench',
    'step',
    '--configs',
    'shapes+batch_size=13,shapes',
    '--out',
    tmp_path,
  )
  assert code == 0 and 'out of memory' in out
  code, _, err = cli(
    'bench',
    'step',
    '--configs',
    'shapes+batch_size=13',
    '--out',
    tmp_path / 'none',
  )
  assert code == 2 and 'out of memory' in err
  assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize(
  'flags, key',
  [
    (['--configs', 'circles'], '--config'),
    (['--configs', 'shapes:slow'], '--config'),
    (['--configs', ''], '--configs'),
    (['--configs', 'shapes+batch=8'], 'batch'),
    (['--configs', 'shapes+batch_size=0'], 'batch_size'),
    (['--configs', 'shapes', '--compile-for', 'v1'], 'topology'),
    (['--configs', 'shapes', '--kernels', 'softmax=xla'], '--kernels'),
    (['--configs', 'shapes', '--workdir', 'here'], '--workdir'),
    (['--sweep', '--against-plan'], '--against-plan'),
    (['--against-loop'], 'autoencoder'),
    (['--against-loop', '--configs', 'shapes,shapes_dc_ae'], '--configs'),
    (['--repeats', '0'], '--repeats'),
    (['--out', '/dev/null/x'], '--out'),
    (['--render', 'nowhere'], '--render'),
  ],
)
def test_a_bad_value_for_steps_is_a_one_line_error(flags, key, refused):
  assert refused('bench', 'step', *flags).key == key
