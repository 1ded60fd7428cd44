"""sana-jax plan: invalid arguments, and one plan from end to end."""

import dataclasses
import json
import re

import pytest

from sana_jax import config as base
from sana_jax.analysis import topologies
from sana_jax.analysis.work import Work
from sana_jax.launch import cli
from sana_jax.launch.config_files import apply_layout, load_config
from sana_jax.tools.plan import runner
from sana_jax.tools.plan.report import Plan

TINY = """
from sana_jax import config as base

def get_config(arg=''):
  config = base.train('sana')
  config.model.update(width=64, depth=2, cross_heads=2, sample_size=8)
  config.batch_size = 16
  config.num_steps = 100
  return config
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
  """A config file, with an empty cache."""
  monkeypatch.setattr(runner.cache, 'FOLDER', str(tmp_path / 'cache'))
  path = tmp_path / 'tiny.py'
  path.write_text(TINY)
  return path


@pytest.fixture
def compilers(monkeypatch):
  """Pretends that compilers are installed."""
  monkeypatch.setattr(topologies, '_check_compiler', lambda *_: None)


def plan(config, *args):
  return cli.main(['plan', '--config', str(config), *map(str, args)])


@pytest.mark.parametrize(
  'args, message',
  [
    (['--topology', 'v5:4x4'], "'v5' is no chip.*did you mean v5"),
    (['--topology', 'v5e:4x4x4'], 'no topology of v5e; give 2 sizes'),
    (
      ['--topology', 'v5e:4x4', '--layouts', 'fdsp'],
      '--layout=fdsp: there is no such file; shipped are dp, fsdp',
    ),
    (
      ['--topology', 'v5e:4x4', '--per-chip-batch', '0'],
      "'0' is not allowed; give whole numbers",
    ),
    (['--topology', 'v5e:4x4', '--per-chip-batch', 'most'], 'or fit'),
    (['--topology', 'v5e:4x4', '--config.mesh.fspd=3'], 'There is no config'),
    (
      ['--topology', 'v5e:4x4', '--layouts', 'dp', '--config.batch_size=17'],
      'batch_size=17 does not split.*multiple of 16',
    ),
    (
      ['--topology', 'v5e:4x4', '--layouts', 'hybrid'],
      'hybrid: It needs at least 2 slices or hosts',
    ),
  ],
)
def test_a_bad_argument_is_a_one_line_error(
  args, message, tiny, compilers, tmp_path, capsys
):
  assert plan(tiny, *args, '--out', tmp_path / 'out') == 2
  printed = capsys.readouterr().err
  assert re.search(message, printed), printed
  assert printed.count('\n') == 1
  assert not (tmp_path / 'out').exists()


def test_a_missing_compiler_is_reported_before_anything_runs(
  tiny, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda _: None)
  assert plan(tiny, '--topology', 'v5e:4x4', '--out', tmp_path / 'out') == 2
  assert '[tpu]' in capsys.readouterr().err


def compile_by_rule(self, facts):
  """Replaces XLA: 1 GiB per image of a device, and 2 GiB for the rest."""
  config = facts['config']
  groups = config['mesh']['data'] * config['mesh']['fsdp']
  plan = Plan(
    facts['layout'],
    facts['topology'],
    facts['mode'],
    {k: v for k, v in config['mesh'].items() if k != 'slices'},
    config['batch_size'],
    config['num_steps'],
    usable=15.75 * 2**30,
    memory={
      'parameters': 2**31,
      'temporaries': config['batch_size'] // groups * 2**30,
    },
    work=[Work(1e12, 1e9)],
    model_flops=1e12,
  )
  self.compiled += 1
  return json.loads(json.dumps(dataclasses.asdict(plan)))


@pytest.mark.long
def test_the_report_and_the_layout_files_are_written(
  tiny, compilers, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(runner.Runner, '_compile', compile_by_rule)
  out = tmp_path / 'out'
  assert (
    plan(
      tiny,
      '--topology',
      'v5e:4x4',
      '--layouts',
      'dp,fsdp,sequence',
      '--out',
      out,
      '--config.batch_size=64',
    )
    == 0
  )
  assert {p.name for p in out.iterdir()} == {
    'plan.json',
    'plan.md',
    'plan.html',
    'memory.png',
    'scaling.png',
    'layouts',
  }
  printed = capsys.readouterr().out
  rows = [line.split()[0] for line in printed.splitlines()[:4]]
  assert rows[0] == 'layout' and rows[3] == 'sequence'
  # 64 images over 4 groups: 16 + 2 GiB of 15.75.
  assert 'sequence needs 18.00 GiB of 15.75: 2.25 GiB too many' in printed
  assert 'what fits: config.batch_size=32 (10.00 GiB)' in printed
  assert len(json.loads((out / 'plan.json').read_text())['plans']) == 3
  config = load_config(str(tiny))
  apply_layout(config, str(out / 'layouts' / 'fsdp.py'))
  assert (config.mesh.data, config.mesh.fsdp) == (1, 16)
  assert not (out / 'layouts' / 'sequence.py').exists()
  assert 'data:image/png;base64,' in (out / 'plan.html').read_text()


@pytest.mark.long
def test_a_second_run_compiles_nothing(tiny, compilers, tmp_path, monkeypatch):
  monkeypatch.setattr(runner.Runner, '_compile', compile_by_rule)
  args = ('--topology', 'v5e:4x4', '--layouts', 'dp', '--out', tmp_path / 'out')
  assert plan(tiny, *args) == 0
  monkeypatch.setattr(runner.Runner, '_compile', None)
  assert plan(tiny, *args, '--config.log_every_steps=3') == 0
  with pytest.raises(TypeError):  # Another optimizer is another program.
    plan(tiny, *args, '--config.optimizer.name=came')


@pytest.mark.long
def test_fit_finds_the_largest_batch(
  tiny, compilers, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(runner.Runner, '_compile', compile_by_rule)
  assert (
    plan(
      tiny,
      '--topology',
      'v5e:4x4',
      '--layouts',
      'dp',
      '--per-chip-batch',
      'fit',
      '--out',
      tmp_path / 'out',
    )
    == 0
  )
  assert capsys.readouterr().out.splitlines()[1].split()[:3] == [
    'dp',
    'data=16',
    '13',
  ]


@pytest.mark.long
def test_a_search_compiles_the_requested_number(
  tiny, compilers, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(runner.Runner, '_compile', compile_by_rule)
  out = tmp_path / 'out'
  assert plan(tiny, '--topology', 'v5e:2x2', '--search', '3', '--out', out) == 0
  lines = capsys.readouterr().out.splitlines()
  assert '3 compilations' in lines[-1]
  best = out / 'layouts' / f'{lines[1].split()[0]}.py'
  config = load_config(str(tiny))
  apply_layout(config, str(best))
  base.check(config)


@pytest.mark.long
def test_a_search_continues_until_something_fits(
  tiny, compilers, tmp_path, monkeypatch, capsys
):
  def compile_small_parts_alone(self, facts):
    found = compile_by_rule(self, facts)
    parts = facts['config']['accumulate_steps']
    return found | {'memory': {'temporaries': 2**36 // parts**2}}

  monkeypatch.setattr(runner.Runner, '_compile', compile_small_parts_alone)
  args = (
    '--topology',
    'v5e:2x2',
    '--search',
    '1',
    '--out',
    tmp_path / 'out',
    '--config.batch_size=2048',
    '--config.model.width=512',
  )
  assert plan(tiny, *args) == 0
  layout, *others = (
    line
    for line in capsys.readouterr().out.splitlines()
    if 'data=' in line or 'fsdp=' in line
  )
  # 64 GiB in one part, 16 in two and 4 in four: of 15.75.
  assert re.search(r'in[48]', layout) and 'too large' not in layout
  assert others and all('too large' in line for line in others)


@pytest.mark.parametrize(
  'args, key', [([], '--topology'), (['--topology', 'v5e:4x4'], '--out')]
)
def test_a_missing_argument_is_reported(args, key, tiny, refused):
  assert refused('plan', '--config', tiny, *args).key == key


@pytest.mark.tpu_compiler
def test_a_step_is_planned_for_an_unattached_pod(tiny, tmp_path, capsys):
  out = tmp_path / 'out'
  assert (
    plan(
      tiny,
      '--topology',
      'v5e:2x2',
      '--layouts',
      'fsdp',
      '--out',
      out,
      '--config.dtype=bfloat16',
      '--config.model.remat=full',
    )
    == 0
  )
  (found,) = json.loads((out / 'plan.json').read_text())['plans']
  # AdamW keeps two numbers for each.
  assert found['memory']['parameters'] == found['memory']['average']
  assert found['memory']['optimizer'] == pytest.approx(
    2 * found['memory']['parameters'], rel=1e-3
  )
  # Remat takes four passes for three. XLA makes sums of so small products,
  # which do not count (of the 1.6B, it is four thirds to 0.1 %).
  assert 0.7 < found['hardware_flops'] / found['model_flops'] < 1.01 * 4 / 3
  sent = sum(
    c['bytes'] for c in found['collectives'] if c['kind'] == 'all-gather'
  )
  assert sent > 0 and found['temporaries']


@pytest.mark.long
def test_several_configs_and_pods_make_a_table_of_winners(
  tiny, compilers, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(runner.Runner, '_compile', compile_by_rule)
  out, wide = tmp_path / 'out', tmp_path / 'wide.py'
  wide.write_text(TINY.replace('batch_size = 16', 'batch_size = 512'))
  # 512 images in 16 groups need 34 GiB; nothing at all splits into 256.
  assert (
    plan(
      f'{tiny},{wide}',
      '--topology',
      'v5e:4x4,v5e:16x16',
      '--layouts',
      'dp',
      '--out',
      out,
    )
    == 0
  )
  printed = capsys.readouterr().out
  rows = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in (out / 'winners.md').read_text().splitlines()
    if line.startswith('| ')
  ][1:]
  assert [row[1] for row in rows] == ['v5e:4x4', 'v5e:16x16'] * 2
  assert rows[0][2] == 'dp' and 'does not split' in rows[1][2]
  assert rows[2][2] == 'none fits' and rows[3][2] == 'dp'
  # A TFLOP of 197 a second on each of 16 chips, by the rule's one operation.
  assert rows[0][7] == '0.00508' and rows[0][6] == '15.75'
  assert (
    'who' not in printed
    and len(json.loads((out / 'winners.json').read_text())['rows']) == 5
  )
  folders = sorted(p.name for p in out.iterdir() if p.is_dir())
  assert len(folders) == 3 and all('v5e-' in name for name in folders)


def test_an_unknown_pod_among_several_is_reported_first(
  tiny, compilers, tmp_path, capsys
):
  out = tmp_path / 'out'
  assert plan(tiny, '--topology', 'v5e:4x4,v5x:4x4', '--out', out) == 2
  assert "'v5x'" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
  'args, key',
  [
    (['--config', 'shapes'], 'config'),
    (['--shardings'], 'shardings'),
    (['--config.batch_size=3'], '--config.batch_size'),
  ],
)
def test_measuring_the_devices_takes_no_other_argument(args, key, refused):
  assert refused('plan', '--calibrate', *args).key == key
