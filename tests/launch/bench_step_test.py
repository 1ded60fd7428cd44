"""sana-jax bench step: measured, swept, planned or compiled steps."""

import dataclasses
import json

import pytest

from sana_jax import kernels
from sana_jax.tools.bench import step

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
    (['--configs', 'shapes', '--steps', '7'], '--steps'),
    (['--sweep', '--rounds', '2'], '--rounds'),
    (['--against-plan', '--rounds', '2'], '--rounds'),
    (['--sweep', '--kernels', 'glumb_conv=xla'], '--kernels'),
    (['--sweep', '--against', 'xla'], '--against'),
    (['--against-loop', '--kernels', 'glumb_conv=xla'], '--kernels'),
    (['--against-loop', '--against', 'xla'], '--against'),
    (['--against-loop', '--profile'], '--profile'),
    (['--against-loop', '--repeats', '2'], '--repeats'),
    (['--compile-for', 'v5e:2x2', '--profile'], '--profile'),
    (['--compile-for', 'v5e:2x2', '--repeats', '2'], '--repeats'),
    (['--compile-for', 'v5e:2x2', '--workdir', 'here'], '--workdir'),
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
