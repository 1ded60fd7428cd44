"""Golden shardings on pods, against which changes of tables or layouts differ.

Written by `sana-jax plan --golden tests/golden/plans --update`; sizes of shards
are checked against closed forms.
"""

import re
import shutil

import jax
import jax.numpy as jnp
import pytest

from sana_jax.analysis import topologies
from sana_jax.analysis.collectives import Collective
from sana_jax.errors import UserError
from sana_jax.launch import cli
from sana_jax.launch.config_files import CONFIGS
from sana_jax.tools.plan import cache, compiling, golden
from sana_jax.tools.plan.report import Plan
from sana_jax.tools.plan.runner import Runner

FOLDER = CONFIGS.parent / 'tests/golden/plans'
PODS = (
  'v5e:16x16',
  'v5p:4x4x8',
  'v6e:16x16',
  'tpu7x:4x4x8',
  'h200:1x1x8',
  'h200:1x32x8',
)
# The TPU programs that are compiled; of GPUs, all are.
COMPILED_TPU = {
  'sana_600m_512-v5e-16x16.txt',
  'sana_1600m_1024-v5p-4x4x8.txt',
  'sana15_4800m_1024-v6e-16x16.txt',
  'sana_1600m_4k-tpu7x-4x4x8.txt',
}
# Recipes whose program another recipe has.
SAME = {'sana15_recover', 'sana15_4800m_grow'}
CONFIG = 'sana_1600m_1024'


def read(config, pod):
  return golden.read(FOLDER / golden.Golden(config, pod, '').name)


def run(folder, *args):
  return cli.main(['plan', '--golden', str(folder), *args])


FILES = sorted(FOLDER.glob('*.txt'))


def test_every_published_recipe_has_one_for_every_pod():
  recipes = {p.stem for p in CONFIGS.glob('sana*.py')} - SAME
  expected = {
    golden.Golden(config, pod, '').name for config in recipes for pod in PODS
  }
  expected |= {'shapes-h200-1x1x8.txt'}
  assert {p.name for p in FILES} == expected


def number(pattern, text):
  return float(re.search(pattern, text)[1].replace(',', ''))


def check_compiled(path):
  """Checks that a program holds and gathers the bytes of its shardings."""
  one = golden.read(path)
  head, memory, *collectives = one.compiled.splitlines()
  layout, ways = re.match(r'Compiled: (\w+),.*?fsdp=(\d+)', head).groups()
  parts = one.shardings.partition(f'{layout}: ')[2]
  for kind in ('parameters', 'optimizer'):
    size = number(rf'{kind} ([\d,.]+) MiB', parts)
    assert number(rf'{kind} ([\d,.]+)', memory) == (
      pytest.approx(size, abs=0.1)
    ), path
  # Each device needs all weights at least once, in bfloat16; nearly all of
  # their bytes are in parts.
  whole = number(r'parameters ([\d,.]+) MiB', parts) * 2**20 * int(ways) / 2
  sent = sum(
    number(r'calls, ([\d,.]+) MB', line)
    for line in collectives
    if ' over fsdp by ' in line
  )
  assert sent * 1e6 > 0.9 * whole * (1 - 1 / int(ways)), path


def test_programs_hold_and_gather_the_bytes_of_their_shardings():
  made = [path for path in FILES if golden.read(path).compiled]
  of_tpus = {path.name for path in made if 'h200' not in path.name}
  assert of_tpus == COMPILED_TPU
  assert len(made) - len(of_tpus) == sum('h200' in p.name for p in FILES)
  for path in made:
    check_compiled(path)
  # 1,604,462,752 float32 numbers; biases and tables are on every device.
  whole = 1_604_462_752 * 4 / 2**20
  for pod, layout, devices in (
    ('v5e:16x16', 'dp', 1),
    ('v5e:16x16', 'fsdp_64', 64),
    ('h200:1x1x8', 'fsdp', 8),
  ):
    text = read(CONFIG, pod).shardings.partition(f'{layout}: ')[2]
    found = number(r'parameters ([\d,.]+) MiB', text)
    assert whole / devices <= found + 0.05, (pod, layout)
    assert found < whole / devices + 12, (pod, layout)


# All: sana-jax plan --golden tests/golden/plans --shardings
@pytest.mark.long
@pytest.mark.parametrize(
  'config, pod',
  [
    ('sana_600m_1024', 'v5e:16x16'),
    (CONFIG, 'v5p:4x4x8'),
    ('sana15_4800m_1024', 'v6e:16x16'),
    ('sana_1600m_4k', 'h200:1x32x8'),
  ],
)
def test_shardings_are_unchanged(config, pod, capsys):
  assert (
    run(FOLDER, '--config', config, '--topology', pod, '--shardings') == 0
  ), capsys.readouterr().out
  assert '1 unchanged' in capsys.readouterr().out


@pytest.mark.long
def test_a_plan_without_a_compiled_part_is_compared_by_shardings(
  tmp_path, monkeypatch, capsys
):
  name = 'sana_600m_512-v6e-16x16.txt'
  shutil.copy(FOLDER / name, tmp_path / name)
  monkeypatch.setattr(topologies, 'check', lambda topology: None)
  monkeypatch.setattr(Runner, 'one', None)
  assert run(tmp_path) == 0, capsys.readouterr().out
  assert '1 unchanged' in capsys.readouterr().out


@pytest.fixture
def changed(tmp_path):
  """A folder with one plan, with a changed sharding."""
  name = 'shapes-h200-1x1x8.txt'
  path = shutil.copy(FOLDER / name, tmp_path / name)
  text = path.read_text()
  assert 'fsdp: fsdp=8\n  parameters 1.1 MiB' in text
  path.write_text(text.replace('parameters 1.1 MiB', 'parameters 2.2 MiB'))
  return path


@pytest.mark.long
def test_a_change_is_a_diff_and_exit_code_1(changed, capsys):
  before = changed.read_text()
  assert run(changed.parent, '--shardings') == 1
  out = capsys.readouterr().out
  assert '\n-  parameters 2.2 MiB' in out and '\n+  parameters 1.1 MiB' in out
  assert changed.read_text() == before
  assert run(changed.parent, '--shardings', '--update') == 0
  assert changed.read_text() == (FOLDER / changed.name).read_text()


def test_a_missing_plan_is_a_one_line_error(changed, capsys):
  assert run(changed.parent, '--config', 'sana_600m_512') == 2
  error = capsys.readouterr().err
  assert 'shapes-h200-1x1x8.txt' in error and error.count('\n') == 1
  changed.write_text('something else\n')
  with pytest.raises(UserError) as error:
    golden.read(changed)
  assert (error.value.value, error.value.allowed) == (
    changed,
    'CONFIG on TOPOLOGY',
  )


def test_collectives_are_added_up_by_kind_axes_and_link():
  one = Collective('all-gather', 'fsdp', 'ici', 3, True, 10, 2e6)
  two = Collective('all-gather', 'fsdp', 'ici', 2, False, 5, 1e6)
  plan = Plan(
    'fsdp_64',
    'v5e:16x16',
    'train',
    {'data': 4, 'fsdp': 64},
    1024,
    100,
    usable=2.0**30,
    memory={'parameters': 2**20, 'average': 0, 'code': 2**21},
    collectives=[one, two],
    versions={'jax': '1', 'libtpu': '2', 'flax': '3'},
  )
  assert golden.compiled(plan) == (
    'Compiled: fsdp_64, data=4 fsdp=64, 4 images a chip, jax 1, libtpu 2\n'
    '  MiB of a device: parameters 1.0, code 2.0; 3.0 of 1,024.0\n'
    '  all-gather over fsdp by ici: 15 calls, 3.0 MB\n'
  )


COMPILED = 'Compiled: fsdp, fsdp=8, 4 images a chip, jax 1, libtpu 2'


@pytest.mark.parametrize(
  'versions, expected',
  [({'jax': '1', 'libtpu': '2', 'flax': '3'}, '12ab'), ({'jax': '1'}, '')],
)
def test_a_program_is_known_by_its_digest_and_compilers(versions, expected):
  plan = lambda end: golden.Golden('a', 'b', '', f'{COMPILED}{end}\n  MiB\n')
  assert golden.program(plan(', program 12ab'), versions) == expected
  assert golden.program(plan(''), versions) == ''
  assert golden.program(golden.Golden('a', 'b', ''), versions) == ''


@pytest.mark.long
def test_an_unchanged_program_is_not_compiled(changed, monkeypatch, capsys):
  """The layouts are still compared."""
  versions = ', '.join(
    f'{x} {n}' for x, n in cache.compilers().items() if x == 'jax'
  )
  head = f'{COMPILED.partition(", jax")[0]}, {versions}, program 12ab'
  text = re.sub('Compiled: .*', head, changed.read_text())
  changed.write_text(text)
  digests = []
  unchanged = lambda self, layout, program: digests.append(program) or True
  monkeypatch.setattr(Runner, 'unchanged', unchanged)
  monkeypatch.setattr(topologies, 'check', lambda topology: None)
  assert run(changed.parent, '--update') == 0
  assert digests == ['12ab'] and head in changed.read_text()
  assert '2.2 MiB' not in changed.read_text()


def test_a_digest_is_of_the_program_alone():
  def lowered(scale):
    return jax.jit(lambda x: x * scale).lower(jnp.ones(2))

  same = jax.jit(  # On other lines.
    lambda x: x * 2.0
  )
  assert compiling.digest(lowered(2.0)) == compiling.digest(
    same.lower(jnp.ones(2))
  )
  assert compiling.digest(lowered(2.0)) != compiling.digest(lowered(3.0))


# All: sana-jax plan --golden tests/golden/plans
@pytest.mark.parametrize(
  'config, pod',
  [
    pytest.param('shapes', 'h200:1x1x8', marks=pytest.mark.gpu_compiler),
    pytest.param('sana_600m_512', 'v5e:16x16', marks=pytest.mark.tpu_compiler),
  ],
)
def test_a_program_is_unchanged(config, pod, capsys):
  same = run(FOLDER, '--config', config, '--topology', pod)
  assert same == 0, capsys.readouterr().out
