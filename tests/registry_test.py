"""Tasks of other packages, with the example of docs/extending.md."""

import importlib
import pathlib
import re
import sys

import numpy as np
import pytest

from sana_jax import config as base
from sana_jax import registry, tasks
from sana_jax.errors import UserError

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'extending.md'
PACKAGE, CONFIG = re.findall(
  r'```python\n(.*?)```',
  PAGE.read_text().partition('## A task\n')[2],
  re.DOTALL,
)


@pytest.fixture
def config(tmp_path, monkeypatch):
  """Config file of a task that an installed package provides."""
  (tmp_path / 'lines_task.py').write_text(PACKAGE)
  installed = tmp_path / 'lines_task-1.0.dist-info'
  installed.mkdir()
  (installed / 'METADATA').write_text('Name: lines_task\nVersion: 1.0\n')
  (installed / 'entry_points.txt').write_text(
    '[sana_jax.tasks]\nlines = lines_task:KIND\n'
  )
  path = tmp_path / 'lines.py'
  path.write_text(CONFIG)
  monkeypatch.syspath_prepend(tmp_path)
  registry._installed.cache_clear()
  importlib.invalidate_caches()
  yield path
  sys.modules.pop('lines_task', None)
  registry._installed.cache_clear()


def test_a_task_from_outside_is_trained_exported_and_planned(
  config, cli, tmp_path
):
  code, _, err = cli(
    'train',
    '--config',
    config,
    '--workdir',
    tmp_path / 'run',
    '--config.goal.scale=3',
  )
  assert code == 0, err
  learnt = np.load(tmp_path / 'run/model/kernel.npy')
  np.testing.assert_allclose(learnt[1:], 0, atol=0.5)
  assert 2 < learnt[0, 0] < 4
  code, _, err = cli(
    'export', '--workdir', tmp_path / 'run', '--to', tmp_path / 'out'
  )
  assert code == 0, err
  np.testing.assert_array_equal(np.load(tmp_path / 'out/kernel.npy'), learnt)
  code, output, err = cli(
    'plan',
    '--config',
    config,
    '--topology',
    'v5e:4x4',
    '--shardings',
    '--layouts',
    'fsdp',
  )
  assert code == 0, err
  assert '  kernel 32x1: 2x1' in output


def test_a_missing_feature_of_a_task_is_reported(config, cli):
  code, _, err = cli(
    'plan',
    '--config',
    config,
    '--topology',
    'v5e:4x4',
    '--shardings',
    '--search',
    3,
  )
  assert (
    code == 2
    and "--search supports only config.task='sana', not 'lines'" in (err)
  )


def test_a_task_can_be_registered_by_a_call(monkeypatch):
  monkeypatch.setattr(registry, '_registered', {})
  kind = tasks.Kind(len, len, len, lambda: {'model': {'width': 8}})
  tasks.register('mine', kind)
  assert tasks.find('mine') is kind and 'mine' in tasks.names()
  config = base.train('mine')
  assert config.task == 'mine' and config.model.width == 8
  base.check_keys(config)
  base.check(config)
  for name in ('mine', 'sana'):
    with pytest.raises(ValueError, match=f'there is a task {name!r} already'):
      tasks.register(name, kind)


def test_an_unknown_task_is_reported_with_the_known_ones():
  with pytest.raises(UserError) as caught:
    base.train('x')
  assert (caught.value.key, caught.value.value) == ('task', 'x')
  assert caught.value.allowed[:5] == (
    'sana',
    'sprint',
    'controlnet',
    'dc_ae',
    'text_encoder',
  )
