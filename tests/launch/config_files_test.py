"""Layouts by name or file, and errors of invalid ones."""

import os

import jax
import pytest

from sana_jax import config as base
from sana_jax.errors import UserError
from sana_jax.launch import bench_step, config_files
from sana_jax.launch.launch import load
from sana_jax.launching import machines
from sana_jax.launching.job import Job
from sana_jax.sharding.mesh import make_mesh
from sana_jax.weights import folder as folders

pytestmark = pytest.mark.fast

MESHES = {
  'dp': {'data': 8},
  'fsdp': {'fsdp': 8},
  'fsdp_tp': {'fsdp': 4, 'tensor': 2},
  'sequence': {'fsdp': 2, 'sequence': 4},
  'hybrid': {'data': 2, 'fsdp': 4},
}


def test_every_shipped_layout_is_known_here():
  layouts = config_files.CONFIGS / 'layouts'
  assert sorted(MESHES) == sorted(p.stem for p in layouts.glob('[!_]*.py'))


@pytest.mark.parametrize('name', MESHES)
def test_a_layout_makes_its_mesh(name):
  config = base.train('sana')
  config.mesh.update(data=2, tensor=4, slices=2)  # All of it is replaced.
  config_files.apply_layout(config, name)
  base.check(config)
  shape = make_mesh(config.mesh.to_dict(), jax.devices()).shape
  assert {axis: n for axis, n in shape.items() if n > 1} == MESHES[name]


def test_a_file_sets_what_saves_memory_too(tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(
    "LAYOUT = {'mesh.fsdp': 4, 'model.remat': 'full', 'accumulate_steps': 2}"
  )
  config = base.train('sana')
  config_files.apply_layout(config, str(file))
  assert (config.mesh.fsdp, config.model.remat, config.accumulate_steps) == (
    4,
    'full',
    2,
  )


@pytest.mark.parametrize(
  'text, key, value',
  [
    ('', 'LAYOUT', None),
    ('LAYOUT = {', '--layout', ('SyntaxError', 1)),
    ('LAYOUT = 3', '--layout', int),
    ("LAYOUT = {'seed': 3}", '--layout', ...),
    ("LAYOUT = {'mesh.model': 3}", 'mesh.model', '3'),
    ("LAYOUT = {'mesh.data': 'x'}", 'mesh.data', 'x'),
  ],
)
def test_an_invalid_layout_is_a_one_line_error(text, key, value, tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(text)
  with pytest.raises(UserError, match=f'--layout={file}') as error:
    config_files.apply_layout(base.train('sana'), str(file))
  assert error.value.key == key
  assert error.value.value == (str(file) if value is ... else value)


def test_a_missing_layout_is_reported():
  with pytest.raises(UserError) as error:
    config_files.apply_layout(base.train('sana'), 'ddp')
  assert (error.value.key, error.value.value) == ('--layout', 'ddp')
  assert error.value.allowed == tuple(sorted(MESHES))


@pytest.mark.parametrize(
  'name, allowed',
  [
    ('file', '.py'),
    ('file.txt', '.py'),
    ('fifo.py', 'shapes'),
    ('folder', 'shapes'),
    ('folder.py', 'shapes'),
    ('loop.py', None),
    ('file.txt/x.py', 'shapes'),
    ('a' * 300, None),
    ('~nosuchuser/x.py', './~nosuchuser/x.py'),
    ('../shapes', 'shapes'),
  ],
)
def test_what_is_no_python_file_is_refused(
  name, allowed, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  for file in ('file', 'file.txt'):
    (tmp_path / file).write_text('x = 1')
  for folder in ('folder', 'folder.py'):
    (tmp_path / folder).mkdir()
  os.mkfifo(tmp_path / 'fifo.py')
  (tmp_path / 'loop.py').symlink_to('loop.py')
  with pytest.raises(UserError) as error:
    config_files.load_config(name)
  assert name in str(error.value.value)
  assert error.value.allowed is allowed or allowed in error.value.allowed


def test_a_file_of_the_name_of_a_shipped_config_is_not_taken_for_it(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'shapes').write_text('x = 1')
  assert config_files.load_config('shapes').task == 'sana'


def test_plans_benchmarks_and_launches_have_the_model_of_init_from(tiny_sana):
  init = f'init_from={tiny_sana}'
  planned = config_files.checked_config('shapes', [f'--config.{init}'])
  job = Job(
    *('local', 'run', 'shapes', 'run', machines.parse('cpu:1x1'), 'out'),
    overrides=(f'--config.{init}',),
  )
  wanted = folders.describe(tiny_sana, 'transformer')
  for config in planned, bench_step.config_of(f'shapes+{init}'), load(job):
    assert config.model.width == wanted.width
    assert config.model.depth == wanted.depth
