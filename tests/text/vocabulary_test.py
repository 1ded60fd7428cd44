"""Words that a model was not trained on are named, once."""

import json
import logging
import pathlib
import shutil

import pytest

from sana_jax import Pipeline
from sana_jax.configs import shapes as shapes_config
from sana_jax.data import shapes
from sana_jax.errors import UserError
from sana_jax.inference import model_index, texts
from sana_jax.tasks.sana import exports
from sana_jax.text import vocabulary
from sana_jax.weights import hub

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / 'tests/golden/tiny_sana'
WORDS = ('a', 'red', 'circle')


@pytest.mark.fast
@pytest.mark.parametrize(
  'prompt, expected',
  [
    ('a red circle', []),
    (' A Red, circle. ', []),
    ('"red"/red-red (circle)!', []),
    ('', []),
    ('a red dog', ['dog']),
    ('Dog red dog', ['dog']),
    ('猫 a 🙂', ['猫', '🙂']),
    ('reds', ['reds']),
    ('cat dog', ['cat', 'dog']),
  ],
)
def test_words_outside_the_vocabulary_are_found(prompt, expected):
  assert vocabulary.unknown([prompt], WORDS) == expected


@pytest.mark.fast
def test_a_model_without_a_list_takes_every_word():
  assert vocabulary.unknown(['a purple dog 猫'], ()) == []
  assert vocabulary.note([], WORDS) == ''


@pytest.mark.fast
def test_a_note_names_both_kinds_of_words_in_bounds():
  note = vocabulary.note(['dog'], WORDS)
  assert 'dog' in note and ', '.join(WORDS) in note
  odd = vocabulary.note(['\x1b[2J' * 99] * 1000, ['x' * 99] * 1000)
  assert odd.isprintable() and len(odd) < 5000


@pytest.mark.fast
def test_each_word_is_warned_of_once(caplog):
  warned = set()
  with caplog.at_level(logging.WARNING):
    for prompts in (['a dog'], ['a dog', 'a dog'], ['red'], ['a cat or dog']):
      vocabulary.warn(prompts, WORDS, warned)
    assert len(caplog.records) == 2
    vocabulary.warn([f'w{i}' for i in range(20_000)], WORDS, warned)
    for i in range(9):
      vocabulary.warn([f'v{i}'], WORDS, warned)
  assert len(caplog.records) == 3 and len(warned) < 20_000


@pytest.mark.fast
def test_the_shipped_model_lists_the_words_of_its_data():
  found = model_index.vocabulary(hub.find_pipeline('shapes'))
  assert found.words == tuple(shapes.words())
  assert found.examples == shapes.EXAMPLES
  kinds = [shapes.meaning(example).kind for example in found.examples]
  assert sorted(kinds) == sorted(shapes.KINDS)


@pytest.fixture
def folder(tmp_path):
  """Copies the golden model, with other values for our commands."""

  def copy(**values):
    shutil.copytree(GOLDEN, tmp_path / 'model')
    path = tmp_path / 'model/model_index.json'
    index = json.loads(path.read_text())
    index['_sana_jax'] = index.get('_sana_jax', {}) | values
    path.write_text(json.dumps(index))
    return tmp_path / 'model'

  return copy


@pytest.mark.fast
@pytest.mark.parametrize(
  'key, value',
  [
    ('words', 'red'),
    ('words', [1]),
    ('examples', ['']),
    ('examples', ['a'] * 99),
  ],
)
def test_a_bad_list_is_a_user_error(folder, key, value):
  with pytest.raises(UserError) as error:
    model_index.vocabulary(folder(**{key: value}))
  assert error.value.key == key


@pytest.mark.long
def test_python_and_sample_warn_once_of_the_same_words(
  folder, caplog, cli, tmp_path
):
  model = folder(words=WORDS)
  prompts = 'a red circle', 'a red dog', 'a blue dog'
  with caplog.at_level(logging.WARNING):
    pipe = Pipeline.from_pretrained(model, 'float32')
    pipe.encode_prompts(prompts[:2], negative_prompt='fog')
    pipe.encode_prompts(prompts[:2])
    (record,) = caplog.records
    assert record.getMessage() == vocabulary.note(['dog', 'fog'], WORDS)
    assert texts.notes(pipe, ['a dog', '']) == [vocabulary.note(['dog'], WORDS)]
    caplog.clear()
    flags = [x for p in prompts for x in ('--prompt', p)]
    flags += ['--steps', 2, '--height', 16, '--width', 16, '--batch-size', 1]
    out = '--out', tmp_path / 'out'
    assert cli('sample', '--model', model, *flags, *out)[0] == 0
    found = [r.getMessage() for r in caplog.records]
  assert found == [vocabulary.note(['dog', 'blue'], WORDS)]


@pytest.mark.fast
def test_a_run_on_shapes_exports_its_words_unless_it_started_elsewhere():
  config = shapes_config.get_config()
  found = exports.vocabulary(config)
  assert found['words'] == shapes.words()
  assert found['examples'] == list(shapes.EXAMPLES)
  config.init_from = 'Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers'
  assert exports.vocabulary(config) == {}
  config.init_from, config.data.source = '', 'folder'
  assert exports.vocabulary(config) == {}
