"""Model cards: facts in a header that YAML reads, and no markup of a user."""

import dataclasses
import json
import os
import re

import pytest
import yaml

from sana_jax.errors import UserError
from sana_jax.weights import card
from sana_jax.weights.card import Card

pytestmark = pytest.mark.fast

HOSTILE = (
  '"\n---\nlicense: mit\n# x <script> [a](http://evil) `b` | {{c}} $d$ \x1b[2J'
)
CARD = Card(
  title='run',
  facts={'data': 'folder, cats', 'weights': 'step 7, EMA'},
  licence='apache-2.0',
  base='sana_600m_512',
  base_id='Efficient-Large-Model/Sana_600M_512px_diffusers',
  copied={'text encoder': 'google/gemma'},
  scores={
    'model': 'out/model',
    'steps': 20,
    'scores': {'single': {'accuracy': 0.953, 'chance': 0.1, 'strict': None}},
  },
  picture='samples.jpg',
)


def header(text):
  _, block, rest = text.split('---\n', 2)
  return yaml.safe_load(block), rest


def test_the_header_has_the_facts_of_the_hub():
  found, _ = header(card.text(CARD))
  assert found.pop('tags') == ['sana', 'jax', 'flax', 'sana_jax']
  assert found == {
    'license': 'apache-2.0',
    'library_name': 'diffusers',
    'pipeline_tag': 'text-to-image',
    'base_model': 'Efficient-Large-Model/Sana_600M_512px_diffusers',
  }


def test_what_is_unknown_is_left_out_or_named():
  bare = Card(title='run', facts={}, base_licence='Own terms.')
  text = card.text(bare)
  found, rest = header(text)
  assert 'license' not in found and 'base_model' not in found
  assert 'not stated' in rest and 'Own terms' in rest
  assert '## Scores' not in rest and '![' not in rest
  part, _ = header(card.text(dataclasses.replace(bare, pipeline='')))
  assert 'pipeline_tag' not in part


def test_the_text_has_scores_samples_and_uses():
  _, rest = header(card.text(CARD))
  assert '| single | 95\\.3 % |  | 10\\.0 % |' in rest
  assert '![Samples of the run](./samples.jpg)' in rest
  assert rest.count(f"from_pretrained('{card.PLACE}')") == 2
  assert 'text encoder of google\\/gemma' in rest


def test_text_of_a_user_is_no_markup():
  everywhere = Card(
    title=HOSTILE,
    facts={HOSTILE: HOSTILE},
    base=HOSTILE,
    base_licence=HOSTILE,
    base_id=HOSTILE,
    copied={HOSTILE: HOSTILE},
    scores={'model': HOSTILE, 'scores': {HOSTILE: {'accuracy': HOSTILE}}},
  )
  text = card.text(everywhere)
  block, rest = re.fullmatch(r'---\n(.*?\n)---\n(.*)', text, re.DOTALL).groups()
  found = yaml.safe_load(block)
  assert found['base_model'] == HOSTILE and 'license' not in found
  rest = rest.replace(card.WRITTEN, '')
  assert not re.search(
    r'(?<!\\)[<\[\]{}$]', re.sub(r'```.*?```', '', rest, flags=re.DOTALL)
  )
  assert '\x1b' not in rest and '\n# x' not in rest and '\n---\n' not in rest


@pytest.mark.parametrize(
  'scores',
  [None, {}, {'scores': []}, {'scores': {'a': 1}}, {'scores': {}}],
)
def test_scores_of_another_form_are_left_out(scores):
  text = card.text(dataclasses.replace(CARD, scores=scores))
  assert '## Scores' not in text


@pytest.mark.parametrize('value', ['MIT', 'my own', '', 'a\nb', '-x', 'x' * 61])
def test_a_licence_is_an_identifier(value):
  with pytest.raises(UserError) as error:
    card.check_licence(value)
  assert (error.value.key, error.value.value) == ('--license', value)
  card.check_licence('cc-by-nc-4.0')
  card.check_licence(None)


@pytest.mark.parametrize(
  'text, expected',
  [
    ('---\nlicense: mit\n---\n', 'mit'),
    ('---\ntags: [a]\nlicense: "cc-by-4.0"\n---\n', 'cc-by-4.0'),
    ('---\ntags: [a]\n---\nlicense: mit\n', None),
    ('license: mit\n', None),
    ('---\nlicense: !!python/object:os.system\n---\n', None),
    ('', None),
    (b'---\n\xff\n', None),
  ],
)
def test_the_licence_of_a_base_model_is_read_from_its_card(
  text, expected, tmp_path
):
  data = text if isinstance(text, bytes) else text.encode()
  (tmp_path / 'README.md').write_bytes(data)
  assert card.licence_in(tmp_path) == expected


def test_a_card_that_is_no_file_states_no_licence(tmp_path):
  assert card.licence_in(tmp_path) is None
  os.mkfifo(tmp_path / 'README.md')
  assert card.licence_in(tmp_path) is None


def test_a_card_survives_its_own_reader(tmp_path):
  (tmp_path / 'README.md').write_text(card.text(CARD))
  assert card.licence_in(tmp_path) == 'apache-2.0'
  assert json.dumps(header(card.text(CARD))[0])


def test_the_snippet_for_diffusers_has_the_class_of_the_folder():
  plain = card.Card(title='m', facts={})
  sprint = dataclasses.replace(plain, pipeline='SanaSprintPipeline')
  assert 'diffusers.SanaPipeline.from_pretrained' in card.text(plain)
  assert 'diffusers.SanaSprintPipeline.from_pretrained' in card.text(sprint)
