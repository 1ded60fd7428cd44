"""A run's config is read from any intact copy; another config raises."""

import json
import logging
import os

from etils import epath
import ml_collections
import pytest

from sana_jax import config as rules
from sana_jax.errors import UserError
from sana_jax.training import run_config

pytestmark = pytest.mark.fast

CONFIG = {'seed': 1, 'num_steps': 5, 'model': {'width': 8, 'sizes': (1, 2)}}
DAMAGES = [
  b'',
  b'{"seed": ',
  b'[]',
  b'{}',
  b'\xff',
  b'[' * 10**5,
  b'{"seed": %s}' % (b'1' * 5000),
  b'{"a": ' * 900 + b'1' + b'}' * 900,
  b'{"seed": %s1%s}' % (b'[' * 900, b']' * 900),
]


def config(**changes):
  return ml_collections.ConfigDict({**CONFIG, **changes})


def save(workdir, step, text):
  """Writes the part of a checkpoint that is read here."""
  about = workdir / f'checkpoints/{step}/about'
  about.mkdir(parents=True)
  (about / 'metadata').write_bytes(text)


def about(**changes):
  return json.dumps(
    {'config': config(**changes).to_dict(), 'layout': 2}
  ).encode()


@pytest.mark.parametrize('damage', [*DAMAGES, None])
def test_a_checkpoint_has_the_config_that_is_damaged_or_gone(
  tmp_path, damage, caplog
):
  run_config.claim(tmp_path, config())
  path = tmp_path / 'config.json'
  whole = path.read_bytes()
  save(tmp_path, 4, about())
  save(tmp_path, 6, b'[' * 10**5)  # Damaged as well.
  path.unlink() if damage is None else path.write_bytes(damage)
  with pytest.raises(UserError, match='seed.*1.*2') as error:
    run_config.claim(tmp_path, config(seed=2))
  assert error.value.value == ['seed']
  with caplog.at_level(logging.WARNING, 'absl'):
    run_config.claim(tmp_path, config())
  assert 'step 4' in caplog.text
  assert path.read_bytes() == whole


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_config_without_a_checkpoint_raises(tmp_path, damage):
  path = tmp_path / 'config.json'
  path.write_bytes(damage)
  save(tmp_path, 4, b'{"config": [1]}')
  for read in (
    lambda: run_config.claim(tmp_path, config()),
    lambda: run_config.read_config(tmp_path),
  ):
    with pytest.raises(UserError, match='config.json') as error:
      read()
    assert error.value.key == '--workdir'
  assert path.read_bytes() == damage


def test_a_flipped_letter_of_the_config_is_no_other_run(tmp_path, caplog):
  run_config.claim(tmp_path, config())
  save(tmp_path, 4, about())
  path = tmp_path / 'config.json'
  path.write_text(path.read_text().replace('seed', 'seee'))
  run_config.claim(tmp_path, config())
  assert 'step 4' in caplog.text
  assert json.loads(path.read_text())['seed'] == 1


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir])
def test_a_fifo_in_place_of_the_config_raises_and_stays(tmp_path, make):
  make(tmp_path / 'config.json')
  save(tmp_path, 4, about())
  with pytest.raises(UserError, match='config.json'):
    run_config.claim(tmp_path, config())
  assert not (tmp_path / 'config.json').is_file()


def test_long_values_are_shortened_in_the_error(tmp_path):
  run_config.claim(tmp_path, config())
  with pytest.raises(UserError) as e:
    run_config.claim(tmp_path, config(seed='\x1b[2J\n' * 10**5))
  assert len(str(e.value)) < 1000 and str(e.value).isprintable()


def test_a_config_is_read_from_a_checkpoint_too(tmp_path):
  made = rules.train('sana')
  made.seed = 7
  run_config.claim(tmp_path, made)
  save(
    tmp_path,
    4,
    json.dumps({'config': json.loads(made.to_json()), 'layout': 2}).encode(),
  )
  (tmp_path / 'config.json').write_bytes(b'')
  found = run_config.read_config(epath.Path(tmp_path))
  assert found == made and found.seed == 7


@pytest.mark.parametrize(
  'values',
  [
    {'task': 'sana', 'model': 3},
    {'task': ['sana']},
    {'model': {}},
    {'task': 'sana', 'seed': 'x', 'model': {}},
    {'': {'': 1}},
  ],
)
def test_a_folder_without_a_run_raises(tmp_path, values):
  (tmp_path / 'config.json').write_text(json.dumps(values))
  with pytest.raises(UserError):
    run_config.read_config(tmp_path)
