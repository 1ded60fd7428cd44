"""Names of code in a run's files import nothing: they are data."""

import json
import pathlib
import sys

import pytest

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.errors import UserError
from sana_jax.evaluation import scorers
from sana_jax.launch import cli
from sana_jax.training import run_config

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'


@pytest.fixture
def canary(tmp_path, monkeypatch):
  """A file that the module `evil`, which can be imported, would leave."""
  path = tmp_path / 'canary'
  (tmp_path / 'code').mkdir()
  (tmp_path / 'code/evil.py').write_text(
    f'open({str(path)!r}, "w").close()\n'
    'def run(prompts, images): return [0] * len(prompts)\n'
  )
  monkeypatch.syspath_prepend(tmp_path / 'code')
  yield path
  sys.modules.pop('evil', None)


@pytest.fixture
def workdir(tmp_path):
  """The folder of a run of another person, whose reward is evil."""
  config = base.train('nft')
  config.init_from = config.autoencoder = config.text_encoder = str(GOLDEN)
  config.nft.reward = 'evil:run'
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'config.json').write_text(config.to_json())
  return folder


def test_reading_the_config_of_a_run_imports_no_reward(workdir, canary):
  config = run_config.read_config(workdir)
  assert config.nft.reward == 'evil:run'
  assert tasks.exporter(config).objective
  assert 'evil' not in sys.modules and not canary.exists()


def test_an_export_of_a_run_imports_no_reward(workdir, canary, capsys):
  argv = ['export', '--workdir', workdir, '--to', workdir.parent / 'out']
  assert cli.main([*map(str, argv)]) == 2  # It has no checkpoint.
  assert capsys.readouterr().err.count('\n') == 1
  assert 'evil' not in sys.modules and not canary.exists()
  assert not (workdir.parent / 'out').exists()


def test_training_in_a_run_of_others_uses_the_users_config_alone(
  workdir, canary, capsys
):
  """It is refused, since its reward is another."""
  argv = ['train', '--config', 'shapes_nft', '--workdir', str(workdir)]
  before = (workdir / 'config.json').read_bytes()
  assert cli.main([*argv, '--cpu-devices', '1']) == 2
  assert 'nft.reward' in capsys.readouterr().err
  assert 'evil' not in sys.modules and not canary.exists()
  assert (workdir / 'config.json').read_bytes() == before


@pytest.mark.parametrize(
  'task', ['evil', 'evil:KIND', 'os', '../evil', 3, None]
)
def test_the_task_of_a_run_is_no_module(task, workdir, canary):
  path = workdir / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'task': task}))
  with pytest.raises(UserError):
    tasks.exporter(run_config.read_config(workdir))
  assert 'evil' not in sys.modules and not canary.exists()


@pytest.mark.parametrize(
  'name',
  ['.evil:run', ':', 'evil:', 'evil.x:run', 'os:system', 'evil:a:b', 'x'],
)
def test_names_that_are_no_scorer_are_refused(name, canary):
  with pytest.raises(UserError) as error:
    scorers.load(name, 'config.nft.reward')
  assert error.value.key == 'config.nft.reward'
