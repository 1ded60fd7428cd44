"""Trained tokenizers are like Gemma's, whole-word, lossless and stable."""

import shutil

import pytest

from sana_jax.errors import UserError
from sana_jax.text import tokenizer as tokenizers
from sana_jax.text.prompts import INSTRUCTION

pytestmark = pytest.mark.fast

COLOURS = 'red', 'green', 'blue', 'yellow', 'purple', 'orange'
SHAPES = 'circle', 'square', 'triangle', 'star'
CAPTIONS = [
  *(
    f'a {c} {s} {where} a {d} {t}'
    for where in ('left of', 'right of', 'above', 'below')
    for c, d in zip(COLOURS, COLOURS[1:])
    for s in SHAPES
    for t in SHAPES
  ),
  *(
    f'{n} {c} {s}s'
    for n in ('two', 'three', 'four')
    for c in COLOURS
    for s in SHAPES
  ),
]
TEXTS = [
  '',
  'a red circle',
  'Two  blanks, a\ttab\nand a line.\n\n',
  'naïve 你好 🎉 ☃\u200d',
  '</s> <0x41> [x] \\',
  '  leading',
]


def train():
  return tokenizers.train([INSTRUCTION, *CAPTIONS], 700)


@pytest.fixture(scope='module')
def tokenizer():
  return train()


def test_special_tokens_have_gemmas_ids(tokenizer):
  tokens = '<pad>', '<eos>', '<bos>', '<unk>'
  assert tokenizer.convert_tokens_to_ids(list(tokens)) == [0, 1, 2, 3]
  assert (
    tokenizer.pad_token,
    tokenizer.eos_token,
    tokenizer.bos_token,
    tokenizer.unk_token,
  ) == tokens
  assert tokenizer.padding_side == 'right'
  assert tokenizer.encode('') == [2]
  assert len(tokenizer) == 700 == len(set(tokenizer.get_vocab().values()))


def test_every_byte_has_a_token(tokenizer):
  vocab = tokenizer.get_vocab()
  assert all(f'<0x{i:02X}>' in vocab for i in range(256))


def test_each_word_of_a_caption_is_one_token(tokenizer):
  for caption in CAPTIONS:
    words = caption.split()
    assert tokenizer.tokenize(caption) == [
      words[0],
      *('▁' + w for w in words[1:]),
    ]
    behind = tokenizer.tokenize(INSTRUCTION + caption)
    assert behind[-len(words) :] == ['▁' + w for w in words]


@pytest.mark.parametrize('text', TEXTS)
def test_any_text_decodes_back(tokenizer, text):
  ids = tokenizer.encode(text)
  assert ids[0] == 2
  assert 3 not in ids
  assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_training_twice_gives_the_same_tokenizer(tokenizer):
  assert (
    train().backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
  )


def test_saving_keeps_every_id(tokenizer, tmp_path):
  import transformers

  tokenizer.save_pretrained(tmp_path)
  loaders = (
    tokenizers.load,
    transformers.AutoTokenizer.from_pretrained,
    transformers.GemmaTokenizer.from_pretrained,
  )
  for load in loaders:
    loaded = load(tmp_path)
    assert isinstance(loaded, transformers.GemmaTokenizer)
    assert loaded.padding_side == 'right'
    for text in (*TEXTS, INSTRUCTION + CAPTIONS[0], '<mask><pad>'):
      assert loaded.encode(text) == tokenizer.encode(text)


def test_the_error_for_a_small_vocabulary_has_the_required_size():
  with pytest.raises(UserError) as error:
    tokenizers.train(['ab'], 263)
  assert (error.value.key, error.value.value) == ('vocab_size', 263)
  assert error.value.allowed == '264 or more'
  assert len(tokenizers.train(['ab'], 264)) == 264


def test_missing_files_are_named(tokenizer, tmp_path):
  with pytest.raises(UserError) as error:
    tokenizers.load(tmp_path / 'nowhere')
  assert error.value.allowed == ['tokenizer.json', 'tokenizer_config.json']
  tokenizer.save_pretrained(tmp_path)
  (tmp_path / 'tokenizer_config.json').unlink()
  with pytest.raises(UserError) as error:
    tokenizers.load(tmp_path)
  assert error.value.allowed == ['tokenizer_config.json']


def test_a_damaged_file_is_a_user_error(tokenizer, tmp_path):
  tokenizer.save_pretrained(tmp_path)
  whole = (tmp_path / 'tokenizer.json').read_text()
  (tmp_path / 'tokenizer.json').write_text(whole[: len(whole) // 2])
  with pytest.raises(UserError, match='tokenizer.json'):
    tokenizers.load(tmp_path)
  shutil.rmtree(tmp_path)
