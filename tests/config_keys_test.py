"""A key added to the table shows up wherever keys count."""

import pathlib
import re

import pytest

from sana_jax import config as base
from sana_jax import keys
from sana_jax.config import common, page, tasks
from sana_jax.errors import UserError
from sana_jax.keys import Key
from sana_jax.launch import config_files
from sana_jax.models.autoencoders.dc_ae import DCAE
from sana_jax.models.gemma2 import Gemma2
from sana_jax.models.sana import Sana
from sana_jax.tasks.sana import fingerprints
from sana_jax.tools.plan import cache
from sana_jax.training import run_config

ROOT = pathlib.Path(__file__).parents[1]
KEYS = [
  (task, name, key)
  for task in base.TASKS
  for name, key in base.table(task).items()
]


@pytest.fixture
def add(monkeypatch):
  """Adds a key to those of every run, or of a task."""

  def add(name, *args, task=None):
    table = tasks.KEYS[task] if task else common.KEYS
    monkeypatch.setitem(table, name, Key(*args))

  return add


def changed(name, value, task='sana'):
  config = base.train(task)
  base.apply_overrides(config, [f'--config.{name}={value}'])
  return config


def test_a_new_key_has_its_default_and_its_check(add):
  add('watch.new', 3, 'A new one.', keys.size(9))
  add('flow.new', 0.5, 'A new one.', keys.SHARE, task='sana')
  assert base.train('dc_ae').watch.new == 3
  assert base.train('sana').flow.new == 0.5
  assert 'flow' not in base.train('dc_ae')
  base.check_keys(changed('watch.new', 9))
  base.check(changed('watch.new', 9))
  for name, value, allowed in (
    ('watch.new', 10, 'at most 9'),
    ('flow.new', 2.0, 'from 0 to 1'),
  ):
    with pytest.raises(UserError) as caught:
      base.check(changed(name, value))
    assert (caught.value.key, caught.value.value) == (name, value)
    assert caught.value.allowed == allowed
  with pytest.raises(UserError) as error:
    base.apply_overrides(base.train('sana'), ['--config.watch.nwe=1'])
  assert error.value.key == 'watch.nwe'
  assert 'watch.new?' in str(error.value)


@pytest.mark.parametrize('name', ['new', 'watch.new', 'group.new'])
def test_a_new_key_may_change_on_resume_if_it_changes_no_result(
  add, name, tmp_path
):
  add(name, 3, 'A new one.', (), keys.PROGRAM)
  run_config.claim(tmp_path, base.train('sana'))
  run_config.compare(tmp_path, changed(name, 4))


def test_a_new_key_is_fixed_on_resume_by_default(add, tmp_path):
  add('watch.new', 3, 'A new one.')
  run_config.claim(tmp_path, base.train('sana'))
  with pytest.raises(UserError) as error:
    run_config.compare(tmp_path, changed('watch.new', 4))
  assert error.value.value == ['watch.new']
  assert re.search('3 .*4 ', str(error.value))


def test_a_run_of_before_a_key_counts_as_at_its_default(add, tmp_path):
  run_config.claim(tmp_path, base.train('sana'))
  add('flow.new', 3, 'A new one.', task='sana')
  run_config.compare(tmp_path, base.train('sana'))
  with pytest.raises(UserError) as error:
    run_config.compare(tmp_path, changed('flow.new', 4))
  assert error.value.value == ['flow.new']
  assert re.search('3 .*4 ', str(error.value))


def plan_key(config):
  return cache.key(
    {
      'config': config.to_dict(),
      'layout': 'x',
      'mode': 'train',
      'topology': 'v5e:4x4',
    }
  )


@pytest.mark.long
@pytest.mark.parametrize(
  'effect, is_same',
  [
    (keys.PROGRAM, False),
    (keys.RESULT, True),
    (keys.NOTHING, True),
    (keys.PROGRAM | keys.RESULT, False),
  ],
)
def test_a_new_key_is_in_the_key_of_a_plan_if_it_changes_programs(
  add, effect, is_same
):
  add('watch.new', 3, 'A new one.', (), effect)
  same = plan_key(changed('watch.new', 4)) == plan_key(base.train('sana'))
  assert same == is_same


@pytest.mark.parametrize(
  'effect, text, is_there',
  [
    (keys.CACHE, 'online', True),
    (keys.CACHED_TEXT, 'cached', True),
    (keys.CACHED_TEXT, 'online', False),
    (keys.RESULT, 'cached', False),
  ],
)
def test_a_new_key_is_in_a_fingerprint_if_it_changes_caches(
  add, effect, text, is_there
):
  add('flow.new', 3, 'A new one.', (), effect, task='sana')
  config = changed('inputs.text', text)
  config.inputs.latents = 'online'
  config.text_encoder = 'shapes'
  assert ('flow.new' in fingerprints.of(config)) == is_there


def test_a_new_key_is_allowed_in_a_layout_if_it_is_one_of_layouts(
  add, tmp_path
):
  add('watch.new', 3, 'A new one.', (), keys.LAYOUT)
  file = tmp_path / 'mine.py'
  file.write_text("LAYOUT = {'watch.new': 4}")
  config = base.train('sana')
  config_files.apply_layout(config, str(file))
  assert config.watch.new == 4
  file.write_text("LAYOUT = {'watch.stall_minutes': 4}")
  with pytest.raises(UserError) as caught:
    config_files.apply_layout(config, str(file))
  assert 'watch.new' in caught.value.allowed


def test_a_new_key_is_on_the_page(add):
  add('flow.new', 0.5, 'A new one.', keys.SHARE, keys.CACHE, task='sana')
  assert '| `flow.new` | `0.5` | from 0 to 1 | cache | A new one. |' in (
    page.page().splitlines()
  )


def test_the_page_of_the_docs_is_that_of_the_table():
  assert (ROOT / 'docs/config.md').read_text() == page.page(), (
    'python -m sana_jax.config.page > docs/config.md'
  )


@pytest.mark.parametrize('task, name, key', KEYS)
def test_every_key_has_a_comment_and_a_default_that_passes(task, name, key):
  assert key.comment.endswith('.')
  assert not key.violated(key.default)


@pytest.mark.parametrize(
  'task, module', [('sana', Sana), ('dc_ae', DCAE), ('text_encoder', Gemma2)]
)
def test_the_fields_of_a_model_are_keys_at_its_defaults(task, module):
  given = {'name', 'parent', 'dtype'}  # Not of config.model.
  fields = {
    name: field
    for name, field in module.__dataclass_fields__.items()
    if name not in given
  }
  entries = {
    name.removeprefix('model.'): key
    for name, key in base.table(task).items()
    if name.startswith('model.')
  }
  assert entries.keys() == fields.keys()
  for name, key in entries.items():
    if key.optional:
      assert key.default == fields[name].default, name


def test_a_key_that_the_table_lacks_is_taken_to_change_everything():
  assert base.effects('no.such', 'sana') == keys.RESULT | keys.PROGRAM


def test_a_group_changes_what_its_keys_change():
  assert base.effects('watch', 'sana') == keys.NOTHING
  assert base.effects('mesh', 'sana') == keys.PROGRAM | keys.LAYOUT
  assert base.effects('data', 'sana') == (
    keys.RESULT | keys.CACHE | keys.PROGRAM
  )
