"""A cache returns its input exactly and reports damage."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sana_jax.data import cache, files
from sana_jax.data.captions import Captioned, CaptionRule
from sana_jax.data.columns import Columns
from sana_jax.data.records import BadRecord
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast

RULE = CaptionRule('uniform')
SHAPES = {0: (4, 4, 2), 3: (2, 8, 2)}  # Of the latents, by bucket.
WIDTH = 6


def records(latents=jnp.bfloat16):
  """Ten records of two shapes, with one to three captions."""
  rng = np.random.default_rng(0)
  for place in range(10):
    bucket = 3 * (place % 3 == 0)
    named = {
      name: f'{name} of {place % 4}'
      for name in ('prompt', 'long', 'short')[: 1 + place % 3]
    }
    yield cache.Record(
      100 + place,
      bucket,
      named,
      {'long': 30.5},
      latents and rng.normal(size=SHAPES[bucket]).astype(latents),
    )


def texts_of(some):
  """A distinct embedding for each distinct caption."""
  rng = np.random.default_rng(1)
  captions = sorted({c for r in some for c in r.captions.values()})
  return {
    c: rng.normal(size=(2 + i % 5, WIDTH)).astype(jnp.bfloat16)
    for i, c in enumerate(captions)
  }


def write(path, some, texts, shard_records=4):
  shards = []
  for start in range(0, len(some), shard_records):
    shards.append(cache.shard_name(len(shards)))
    part = some[start : start + shard_records]
    files.write(
      f'{path}/{shards[-1]}',
      cache.pack_shard(
        part, texts and {c: texts[c] for r in part for c in r.captions.values()}
      ),
    )
  files.write(f'{path}/{cache.INDEX}', cache.pack_index(Columns(path), shards))
  return path


@pytest.fixture(params=['disk', 'memory'])
def made(request, tmp_path):
  """(path, records, texts) of a cache in three shards."""
  path = (
    str(tmp_path) if request.param == 'disk' else (f'memory://{tmp_path.name}')
  )
  some = list(records())
  texts = texts_of(some)
  return write(path, some, texts), some, texts


def test_records_come_back_bit_for_bit(made):
  path, some, texts = made
  source = cache.CachedSource(path, RULE)
  assert len(source) == len(some) and source.longest_text == 6
  for index, want in enumerate(some):
    seen = set()
    for draw in range(20):
      got = source.at(index, draw)
      np.testing.assert_array_equal(got['latents'], want.latents)
      text = texts[got['caption']]
      np.testing.assert_array_equal(got['text'][: len(text)], text)
      assert not got['text'][len(text) :].any()
      assert got['mask'].tolist() == [True] * len(text) + [False] * (
        6 - len(text)
      )
      seen.add(got['caption'])
    assert seen == set(want.captions.values())


def test_captions_are_the_same_as_those_of_the_source(made):
  path, some, _ = made
  source = cache.CachedSource(path, RULE, seed=5)
  plain = Captioned(
    [
      {'captions': r.captions, 'scores': r.scores, 'index': r.index}
      for r in some
    ],
    RULE,
    seed=5,
  )
  for index in range(len(some)):
    for draw in range(8):
      assert (
        source.at(index, draw)['caption'] == (plain.at(index, draw)['caption'])
      )


def test_buckets_contain_every_record_once(made):
  path, some, _ = made
  found = cache.CachedSource(path, RULE).buckets()
  assert [len(members) for members in found] == [6, 0, 0, 4]
  for bucket, members in enumerate(found):
    assert all(some[i].bucket == bucket for i in members)


def test_a_bad_record_keeps_its_index(tmp_path):
  some = list(records())
  some[4] = cache.Record(104, 3, {}, {}, None)
  some[6] = cache.Record(106, -1, {}, {}, None)
  source = cache.CachedSource(write(str(tmp_path), some, texts_of(some)), RULE)
  assert len(source) == 10 and source.usable == 8
  for index in (4, 6):
    with pytest.raises(BadRecord) as error:
      source[index]  # noqa: B018
    assert error.value.name.startswith(f'record {index} in ')
    assert error.value.name.endswith(cache.shard_name(1))
  assert [len(members) for members in source.buckets()] == [5, 0, 0, 4]
  assert 4 in source.buckets()[3]
  for index in (0, 5, 9):
    np.testing.assert_array_equal(source[index]['latents'], some[index].latents)


def test_longer_text_is_truncated(made):
  source = cache.CachedSource(made[0], RULE)
  source.pad_to(3)
  got = source[4]
  assert got['text'].shape == (3, WIDTH) and got['mask'].shape == (3,)


def test_only_the_requested_data_are_read(made):
  source = cache.CachedSource(made[0], RULE, want=['text'])
  assert set(source[0]) == {'caption', 'text', 'mask'}
  source = cache.CachedSource(made[0], RULE, want=['latents'])
  assert set(source[0]) == {'caption', 'latents'}


def test_missing_parts_of_a_cache_are_reported(tmp_path):
  some = list(records(latents=None))
  path = write(str(tmp_path / 'text'), some, texts_of(some))
  assert set(cache.CachedSource(path, RULE, want=['text'])[0]) == {
    'caption',
    'text',
    'mask',
  }
  with pytest.raises(UserError) as error:
    cache.CachedSource(path, RULE)
  assert (error.value.key, error.value.value) == ('inputs', ['latents'])
  assert error.value.allowed == ['text']
  path = write(str(tmp_path / 'latents'), list(records()), None)
  assert 'latents' in cache.CachedSource(path, RULE, want=['latents'])[9]
  with pytest.raises(UserError) as error:
    cache.CachedSource(path, RULE)
  assert (error.value.key, error.value.value) == ('inputs', ['text'])
  assert error.value.allowed == ['latents']


def test_every_flipped_bit_is_found(tmp_path):
  some = list(records())
  path = write(str(tmp_path), some, texts_of(some))
  columns = Columns(path)
  for name, reported in (
    ('latents/0', 'latents/0'),
    ('said', 'said'),
    ('text', 'text'),
  ):
    file = tmp_path / cache.shard_name(1)
    whole = file.read_bytes()
    for byte in (0, -1):
      place = columns.place(file.name, name)[byte]
      file.write_bytes(
        whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
      )
      source = cache.CachedSource(path, RULE)
      with pytest.raises(BadRecord) as error:
        for index in range(len(source)):
          for draw in range(20):
            source.at(index, draw)
      assert error.value.name.endswith(file.name)
      assert reported in error.value.reason
    file.write_bytes(whole)


@pytest.mark.parametrize('column', ['record/bucket', 'text/end'])
def test_a_flipped_bit_of_an_index_column_is_found(tmp_path, column):
  some = list(records())
  path = write(str(tmp_path), some, texts_of(some))
  file = tmp_path / cache.shard_name(1)
  whole, place = file.read_bytes(), Columns(path).place(file.name, column)[0]
  file.write_bytes(
    whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
  )
  with pytest.raises(UserError) as error:
    cache.pack_index(Columns(path), [cache.shard_name(i) for i in range(3)])
  assert error.value.value == file.name


def test_a_flipped_bit_of_the_empty_prompt_is_found(tmp_path):
  text = np.ones((3, WIDTH), jnp.bfloat16)
  data = cache.pack_null(text)
  (tmp_path / cache.NULL).write_bytes(data)
  np.testing.assert_array_equal(cache.read_null(Columns(str(tmp_path))), text)
  place = Columns(str(tmp_path)).place(cache.NULL, 'text')[3]
  (tmp_path / cache.NULL).write_bytes(
    data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
  )
  with pytest.raises(ValueError, match='checksum'):
    cache.read_null(Columns(str(tmp_path)))


def test_a_truncated_or_missing_shard_affects_only_its_records(tmp_path):
  path = write(str(tmp_path), list(records()), None)
  file = tmp_path / cache.shard_name(1)
  for damage in (
    lambda: file.write_bytes(file.read_bytes()[:-200]),
    file.unlink,
  ):
    damage()
    source = cache.CachedSource(path, RULE, want=['latents'])
    assert source[0] and source[9]
    with pytest.raises(BadRecord, match=cache.shard_name(1)):
      for index in range(4, 8):
        source[index]  # noqa: B018


def test_an_incomplete_cache_is_reported(tmp_path):
  path = write(str(tmp_path), list(records()), None)
  (tmp_path / cache.INDEX).unlink()
  with pytest.raises(UserError) as error:
    cache.CachedSource(path, RULE)
  assert error.value.key == 'data.path'
  assert (error.value.value, error.value.allowed) == (path, (cache.INDEX,))


def test_every_flipped_bit_of_the_index_is_found(tmp_path):
  some = list(records())
  path = write(str(tmp_path), some, texts_of(some))
  file = tmp_path / cache.INDEX
  whole = file.read_bytes()
  header = 8 + int.from_bytes(whole[:8], 'little')
  for place in range(header, len(whole), 7):
    file.write_bytes(
      whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
    )
    with pytest.raises(UserError) as error:
      cache.CachedSource(path, RULE)
    assert error.value.value == str(file)


@pytest.mark.parametrize(
  'content',
  [
    '[' * 10**5,
    '1' * 5000,
    '[[1], {}]',
    '{"a": 1}',
    '[{"a": "\\ud83d"}, {}]',
    '[{"a": "x", "b": "y"}, [1]]',
    '[{"a": 5}, {}]',
    '[{"a": "x", "b": "y"}, {"a": "z"}]',
  ],
)
def test_captions_of_a_wrong_type_affect_only_their_record(
  tmp_path, content, monkeypatch
):
  some = list(records())
  monkeypatch.setattr(
    cache,
    '_captions_json',
    lambda named, scores: (
      content.encode()
      if named == some[4].captions
      else json.dumps([dict(named), dict(scores)]).encode()
    ),
  )
  path = write(str(tmp_path), some, None)
  source = cache.CachedSource(path, RULE, want=['latents'])
  assert source[9]
  with pytest.raises(BadRecord, match='record 4'):
    source[4]  # noqa: B018


@pytest.mark.parametrize('header', ['[]', '{"x": 5}', '{"x": {}}', '[' * 10**5])
def test_a_damaged_header_is_reported(header, tmp_path):
  path = write(str(tmp_path), list(records()), None)
  (tmp_path / cache.INDEX).write_bytes(
    len(header).to_bytes(8, 'little') + header.encode()
  )
  with pytest.raises(UserError) as error:
    cache.CachedSource(path, RULE)
  assert error.value.value == f'{path}/{cache.INDEX}'


def test_an_index_without_a_checksum_is_read(tmp_path):
  path = write(str(tmp_path), list(records()), None)
  file = tmp_path / cache.INDEX
  index = safetensors.numpy.load_file(file)
  del index['checksum']
  safetensors.numpy.save_file(index, file)
  assert cache.CachedSource(path, RULE, want=['latents'])[9]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  write('~/made', list(records()), None)
  assert (tmp_path / 'made' / cache.INDEX).is_file()
  assert cache.CachedSource('~/made', RULE, want=['latents'])[9]
  assert [p.name for p in tmp_path.iterdir()] == ['made']


def test_a_shard_may_have_no_records(tmp_path):
  path = str(tmp_path)
  some = list(records())
  for i, part in enumerate((some[:3], [], some[3:])):
    files.write(
      f'{path}/{cache.shard_name(i)}', cache.pack_shard(part, texts_of(part))
    )
  files.write(
    f'{path}/{cache.INDEX}',
    cache.pack_index(Columns(path), [cache.shard_name(i) for i in range(3)]),
  )
  source = cache.CachedSource(path, RULE)
  assert len(source) == 10
  for index, want in enumerate(some):
    assert source[index]['caption'] in want.captions.values()
