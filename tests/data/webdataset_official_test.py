"""WebDataset tars in the layout of the official code: captions with scores."""

import json
import logging

import numpy as np
import pytest
from written import encoded, tar

from sana_jax.data.webdataset import WebDatasetSource
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast


def opened(path, cache=None, **options):
  return WebDatasetSource(path, None, cache=cache, **options)


@pytest.fixture
def official(tmp_path):
  """Data set in the layout of NVIDIA's code."""
  (tmp_path / '0.tar').write_bytes(
    tar(
      ('k0.json', {'prompt': 'short', 'height': 30, 'width': 40}),
      ('k0.png', encoded()),
      ('k1.json', {'prompt': 'other', 'height': 50, 'width': 60}),
      ('k1.png', encoded()),
    )
  )
  (tmp_path / '0_1.tar').write_bytes(
    tar(('k0.json', {'prompt': 'elsewhere'}), ('k0.png', encoded()))
  )
  write = lambda name, content: (tmp_path / name).write_text(
    json.dumps(content)
  )
  write('0_InternVL2-26B.json', {'k0': {'InternVL2-26B': 'a long story'}})
  write('0_InternVL2-26B_clip_score.json', {'k0': {'InternVL2-26B': '29.5'}})
  write(
    '0_prompt_clip_score.json', {'k0': {'prompt': 21.0}, 'k1': {'prompt': 27.0}}
  )
  write('0_1_other.json', {'k0': {'other': 'of the second shard'}})
  write(
    'wids-meta.json',
    {
      'name': 'sana-dev',
      '__kind__': 'SANA-WebDataset',
      'wids_version': 1,
      'shardlist': [
        {'url': '0.tar', 'nsamples': 2},
        {'url': '0_1.tar', 'nsamples': 1},
      ],
    },
  )
  return tmp_path


@pytest.mark.parametrize('path', ['', 'wids-meta.json'])
def test_the_official_layout_has_all_captions_and_their_scores(official, path):
  source = opened(official / path)
  first, second, third = (source[i] for i in range(3))
  assert first['captions'] == {
    'prompt': 'short',
    'InternVL2-26B': 'a long story',
  }
  assert first['scores'] == {'prompt': 21.0, 'InternVL2-26B': 29.5}
  assert second['captions'] == {'prompt': 'other'}
  assert third['captions'] == {
    'prompt': 'elsewhere',
    'other': 'of the second shard',
  }
  np.testing.assert_array_equal(source.sizes()[:2], [[30, 40], [50, 60]])
  # The filter compares the prompt's, as the official code's does.
  np.testing.assert_array_equal(source.scores(), np.float32([21, 27, np.nan]))


def test_sidecars_that_change_are_read_again(official):
  cache = official / 'cache'
  opened(official, cache)
  (official / '0_prompt_clip_score.json').write_text(
    json.dumps({'k0': {'prompt': 30.25}})
  )
  assert opened(official, cache).scores()[0] == 30.25


@pytest.mark.parametrize(
  'damage',
  [b'{"k0": ', b'', b'\xff', b'[' * 10**5, b'{"k0": ' + b'1' * 5000 + b'}'],
)
def test_a_damaged_sidecar_is_skipped_with_a_warning(official, caplog, damage):
  path = official / '0_InternVL2-26B.json'
  path.write_bytes(damage)
  with caplog.at_level(logging.WARNING):
    source = opened(official)
  assert source[0]['captions'] == {'prompt': 'short'}
  assert f'{path} is skipped: ' in caplog.text


def test_half_a_character_in_a_sidecar_affects_only_that_caption(official):
  path = official / '0_InternVL2-26B.json'
  path.write_text('{"k0": {"one": "\\ud83d cat", "two": "a cat"}}')
  assert opened(official)[0]['captions'] == {'prompt': 'short', 'two': 'a cat'}


def test_a_missing_or_short_listed_shard_is_no_error(official, caplog):
  meta = json.loads((official / 'wids-meta.json').read_text())
  meta['shardlist'] += [{'url': 'gone.tar', 'nsamples': 9}]
  meta['shardlist'][0]['nsamples'] = 5
  (official / 'wids-meta.json').write_text(json.dumps(meta))
  with caplog.at_level(logging.WARNING):
    source = opened(official, max_bad_fraction=0.4)
  assert len(source) == 3
  assert list(source.bad.reasons) == [f'{official}/gone.tar']
  assert '0.tar contains 2 samples; wids-meta.json lists 5.' in caplog.text


@pytest.mark.parametrize(
  'content, allowed',
  [
    ('{', ('url', 'nsamples')),
    ('[]', ('url', 'nsamples')),
    ('[' * 10**5, ('url', 'nsamples')),
    ('1' * 5000, ('url', 'nsamples')),
    (
      '{"shardlist": [{"url": "x", "nsamples": 1e999}]}',
      ('url', 'nsamples'),
    ),
    ('{"shardlist": [{"url": "x"}]}', ('url', 'nsamples')),
    ('{}', '1 shard or more'),
    (
      '{"shardlist": [{"url": "gs://private/x.tar", "nsamples": 1}]}',
      'relative names',
    ),
  ],
)
def test_an_invalid_list_of_shards_is_reported(tmp_path, content, allowed):
  (tmp_path / 'wids-meta.json').write_text(content)
  with pytest.raises(UserError) as error:
    opened(tmp_path)
  assert (error.value.key, error.value.allowed) == ('shardlist', allowed)
  assert str(tmp_path / 'wids-meta.json') in str(error.value)
