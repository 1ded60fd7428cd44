"""An Orbax checkpoint of another model is refused before it is restored."""

import json
import os
import pathlib
import shutil

import pytest

from sana_jax.errors import UserError
from sana_jax.weights import exchange, native
from sana_jax.weights import folder as folders

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A text encoder, as an Orbax checkpoint only."""
  folder = tmp_path_factory.mktemp('native')
  model = folders.load(GOLDEN, 'text_encoder')
  native.save(folder / 'text_encoder', model.variables)
  shutil.copy(GOLDEN / 'text_encoder/config.json', folder / 'text_encoder')
  return folder


@pytest.fixture
def model(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / 'model')


def edit(model, **changes):
  path = model / 'text_encoder/config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
  'changes, numbers',
  [
    ({'vocab_size': 700}, r'embedding \(600, 16\), .*\(700, 16\)'),
    ({'num_hidden_layers': 1, 'layer_types': None}, r'\(1, 16\)'),
    ({'vocab_size': 2_000_000, 'hidden_size': 200_000}, '1,600,'),
  ],
)
def test_a_config_of_another_model_is_refused(model, changes, numbers, capfd):
  edit(model, **changes)
  for read in (
    lambda: folders.load(model, 'text_encoder'),
    lambda: exchange.open_source(str(model / 'text_encoder')),
  ):
    with pytest.raises(UserError, match=numbers):
      read()
  assert 'Traceback' not in capfd.readouterr().err  # Of Orbax's threads.


@pytest.mark.parametrize(
  'text',
  ['', '{', '[]', '{"a": ' * 10_000, '{"tree_metadata": {"x": 1}}', '\xff'],
)
def test_damaged_metadata_are_a_user_error(model, text):
  (model / 'text_encoder/orbax/_METADATA').write_text(text)
  with pytest.raises(UserError, match='text_encoder/orbax'):
    folders.load(model, 'text_encoder')


@pytest.mark.parametrize('name', ['_METADATA', 'd/more'])
def test_a_pipe_in_a_checkpoint_does_not_block(model, name):
  path = model / 'text_encoder/orbax' / name
  path.unlink(missing_ok=True)
  os.mkfifo(path)
  with pytest.raises(UserError) as error:
    folders.load(model, 'text_encoder')
  assert error.value.value == path
  assert error.value.allowed == 'files and folders'
