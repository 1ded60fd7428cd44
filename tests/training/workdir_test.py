"""One run per folder; writes are atomic."""

import json
import os
import pathlib
import re

from etils import epath
import ml_collections
import pytest

from sana_jax.errors import UserError
from sana_jax.training.run_config import claim
from sana_jax.training.workdir import new_folder, write_atomically

pytestmark = pytest.mark.fast

CONFIG = {'seed': 1, 'num_steps': 5, 'model': {'width': 8, 'sizes': (1, 2)}}


def config(**changes):
  return ml_collections.ConfigDict({**CONFIG, **changes})


def test_the_same_config_is_accepted_again(tmp_path):
  for _ in range(2):
    claim(tmp_path / 'run', config())
  saved = json.loads((tmp_path / 'run/config.json').read_text())
  assert saved == {**CONFIG, 'model': {'width': 8, 'sizes': [1, 2]}}


def test_another_config_raises_with_its_keys(tmp_path):
  claim(tmp_path, config())
  other = config(
    model={'width': 9, 'sizes': (1, 2)}, seed=2, num_steps=6, new=None
  )
  with pytest.raises(UserError) as e:
    claim(tmp_path, other)
  assert sorted(e.value.value) == ['model.width', 'new', 'seed']
  assert re.search('model.width.*8.*9', str(e.value))
  assert re.search('seed.*1.*2', str(e.value))
  assert re.search('new.*absent.*None', str(e.value))
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 1


def test_keys_that_change_no_result_may_change_and_are_noted(tmp_path):
  claim(tmp_path, config())
  claim(tmp_path, config(num_steps=9, watch={'stall_minutes': 4.0}))
  assert json.loads((tmp_path / 'config.json').read_text())['num_steps'] == 9


def test_a_key_is_not_free_for_its_prefix(tmp_path):
  claim(tmp_path, config())
  with pytest.raises(UserError) as error:
    claim(tmp_path, config(num_steps_two=1))
  assert error.value.value == ['num_steps_two']


def test_a_folder_that_cannot_be_created_raises(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError) as error:
    claim(tmp_path / 'file/run', config())
  assert error.value.key == '--workdir'


def test_a_failed_write_leaves_what_was_there(tmp_path):
  path = epath.Path(tmp_path / 'picture.png')
  (path / 'mine').mkdir(parents=True)  # In the way of the new one.
  with pytest.raises(UserError, match='picture.png'):
    write_atomically(path, b'new')
  assert [p.name for p in tmp_path.rglob('*')] == ['picture.png', 'mine']


def test_a_folder_is_replaced_as_a_whole(tmp_path):
  folder = tmp_path / 'model'
  for name in ('old', 'new'):
    with new_folder(epath.Path(folder)) as part:
      (part / 'vae').mkdir()
      (part / 'vae' / name).write_text(name)
  with pytest.raises(ZeroDivisionError), new_folder(epath.Path(folder)) as part:
    (part / 'half').write_text('half')
    raise ZeroDivisionError
  assert [p.name for p in tmp_path.iterdir()] == ['model']
  assert [p.name for p in folder.rglob('*')] == ['vae', 'new']


@pytest.mark.parametrize(
  'make',
  [
    pathlib.Path.touch,
    os.mkfifo,
    lambda path: path.symlink_to('.'),
    lambda path: path.symlink_to('nowhere'),
  ],
)
def test_a_file_is_not_replaced_by_a_folder(tmp_path, make):
  make(tmp_path / 'model')
  before = os.lstat(tmp_path / 'model')
  with (
    pytest.raises(UserError, match='model'),
    new_folder(epath.Path(tmp_path / 'model')) as part,
  ):
    (part / 'x').touch()
  assert os.lstat(tmp_path / 'model') == before


def test_leftovers_of_a_killed_replacement_are_removed(tmp_path):
  for left in ('.model.part', '.model.old'):
    (tmp_path / left).mkdir()
    (tmp_path / left / 'x').touch()
  for _ in range(2):
    with new_folder(epath.Path(tmp_path / 'model')) as part:
      (part / 'y').touch()
  assert {p.name for p in tmp_path.iterdir()} >= {'model'}
  assert not list(tmp_path.rglob('x'))


def test_a_relative_folder_is_made_absolute(tmp_path, monkeypatch):
  """Orbax refuses to save under a relative path."""
  monkeypatch.chdir(tmp_path)
  assert str(claim('out/run', config())) == str(tmp_path / 'out/run')
