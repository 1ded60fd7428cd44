"""Trigger words and orders of tags."""

from PIL import Image
import pytest

from sana_jax.data import captions, sources
from sana_jax.data.tags import TagRule

pytestmark = pytest.mark.fast
TAGS = 'one, two, three, four'


def opened(path, rule, name='uniform'):
  Image.new('RGB', (8, 8)).save(path / 'a.png')
  (path / 'a.txt').write_text(TAGS)
  return sources.open_source(
    'folder',
    path=path,
    size=8,
    cache='',
    tags=rule,
    rule=captions.CaptionRule(name),
  )


@pytest.mark.parametrize(
  'caption, changed',
  [
    ('a dog', 'sks, a dog'),
    ('a SKS dog', 'a SKS dog'),
    ('sks, a dog', 'sks, a dog'),
  ],
)
def test_a_trigger_word_is_put_first_unless_it_is_there(caption, changed):
  rule = TagRule('sks')
  assert rule.changed({'prompt': caption}, 0) == {'prompt': changed}


def test_without_a_rule_captions_are_as_they_are():
  assert TagRule().changed({'prompt': ' a,b '}, 3) == {'prompt': ' a,b '}


def test_orders_keep_the_first_tags_and_lose_none():
  for kept in range(5):
    texts = TagRule(orders=20, kept=kept).changed({'prompt': TAGS}, 0)
    assert len(texts) == 20
    expected = TAGS.split(', ')
    for text in texts.values():
      tags = text.split(', ')
      assert tags[:kept] == expected[:kept] and sorted(tags) == sorted(expected)
    assert (len({*texts.values()}) > 1) == (kept < 3)


def test_the_seed_and_the_record_determine_the_orders():
  changed = lambda record, seed=0: TagRule(orders=8, seed=seed).changed(
    {'prompt': TAGS}, record
  )
  assert changed(1) == changed(1)
  assert changed(1) != changed(2) and changed(1) != changed(1, seed=1)


def test_each_draw_of_a_source_takes_one_of_the_orders(tmp_path):
  source = opened(tmp_path, TagRule('sks', orders=5, kept=1))
  every = source.with_all_captions(0)['captions']
  assert [*every] == [f'prompt/{i}' for i in range(5)]
  drawn = {source.at(0, draw)['caption'] for draw in range(100)}
  assert drawn == {*every.values()}
  assert all(text.startswith('sks, ') for text in drawn)


def test_scores_of_a_caption_are_not_those_of_its_orders(tmp_path):
  (tmp_path / 'a.json').write_text('{"scores": {"prompt": 26.5}}')
  plain = opened(tmp_path, TagRule('sks'), 'official')
  assert plain.with_all_captions(0)['scores'] == {'prompt': 26.5}
  shuffled = opened(tmp_path, TagRule(orders=2))
  assert shuffled.with_all_captions(0)['scores'] == {}
