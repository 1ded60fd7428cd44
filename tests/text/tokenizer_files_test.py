"""Checked files yield the same tokenizer as transformers."""

import json

import pytest
import transformers

from sana_jax.errors import UserError
from sana_jax.text import tokenizer as tokenizers
from sana_jax.text import tokenizer_files

pytestmark = pytest.mark.fast

TEXTS = (
  '',
  'a red circle',
  'Two  blanks, a\ttab\nand a line.\n\n\n',
  'naïve 你好 🎉',
  '<start_of_turn>user\n<b>▁▁</b><unused1><eos>',
  'hot hot  hotter',
  '<mask><pad><table><bos>',
  '</s> <0x41> [x] \\',
)
SPECIALS = (
  '<pad>',
  '<eos>',
  '<bos>',
  '<unk>',
  '<mask>',
  '<2mass>',
  '[@BOS@]',
  '<unused0>',
  '<unused1>',
  '<start_of_turn>',
  '<end_of_turn>',
)
LITERALS = ('\n', '\n\n', '▁▁', '▁▁▁', '<table>', '<b>', '</b>')


def flags(text, **more):
  return {
    'content': text,
    'lstrip': False,
    'normalized': False,
    'rstrip': False,
    'single_word': False,
    'special': text in SPECIALS[:4] + SPECIALS[-2:],
  } | more


def tokenizer(vocab, added, pairs):
  """Content of tokenizer.json."""
  bos, a, b = (
    {'SpecialToken': {'id': '<bos>', 'type_id': 0}},
    {'Sequence': {'id': 'A', 'type_id': 0}},
    {'Sequence': {'id': 'B', 'type_id': 1}},
  )
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': [{'id': i, **token} for i, token in added.items()],
    'normalizer': {
      'type': 'Replace',
      'pattern': {'String': ' '},
      'content': '▁',
    },
    'pre_tokenizer': {
      'type': 'Split',
      'pattern': {'String': ' '},
      'behavior': 'MergedWithPrevious',
      'invert': False,
    },
    'post_processor': {
      'type': 'TemplateProcessing',
      'single': [bos, a],
      'pair': [bos, a, {'SpecialToken': {'id': '<bos>', 'type_id': 1}}, b],
      'special_tokens': {
        '<bos>': {'id': '<bos>', 'ids': [2], 'tokens': ['<bos>']}
      },
    },
    'decoder': {
      'type': 'Sequence',
      'decoders': [
        {'type': 'Replace', 'pattern': {'String': '▁'}, 'content': ' '},
        {'type': 'ByteFallback'},
        {'type': 'Fuse'},
      ],
    },
    'model': {
      'type': 'BPE',
      'dropout': None,
      'unk_token': '<unk>',
      'continuing_subword_prefix': None,
      'end_of_word_suffix': None,
      'fuse_unk': True,
      'byte_fallback': True,
      'vocab': vocab,
      'merges': [f'{x} {y}' for x, y in pairs],
    },
  }


def settings(added):
  """Content of tokenizer_config.json."""
  return {
    'add_bos_token': True,
    'add_eos_token': False,
    'added_tokens_decoder': {str(i): token for i, token in added.items()},
    'additional_special_tokens': ['<start_of_turn>', '<end_of_turn>'],
    'bos_token': '<bos>',
    'eos_token': '<eos>',
    'pad_token': '<pad>',
    'unk_token': '<unk>',
    'chat_template': '{{ bos_token }}',
    'clean_up_tokenization_spaces': False,
    'sp_model_kwargs': {},
    'model_max_length': 1000000000000000019884624838656,
    'spaces_between_special_tokens': False,
    'tokenizer_class': 'GemmaTokenizer',
    'use_default_system_prompt': False,
  }


@pytest.fixture
def published(tmp_path):
  """A small tokenizer with all features of Gemma-2's files."""
  pairs = [
    ('h', 'o'),
    ('ho', 't'),
    ('▁', 'hot'),
    ('e', 'r'),
    ('t', 'er'),
    ('▁hot', 'ter'),
    ('▁', 'a'),
    ('\n', '\n'),
    ('▁', '▁'),
  ]
  tokens = [
    *SPECIALS,
    *LITERALS,
    *(f'<0x{i:02X}>' for i in range(256)),
    '▁',
    *'abcdefghijklmnopqrstuvwxyz<>/',
    *(a + b for a, b in pairs),
  ]
  vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
  added = {vocab[text]: flags(text) for text in (*SPECIALS, *LITERALS)}
  (tmp_path / 'tokenizer.json').write_text(
    json.dumps(tokenizer(vocab, added, pairs))
  )
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings(added)))
  (tmp_path / 'special_tokens_map.json').write_text(
    json.dumps(
      {
        name: flags(f'<{name[:3]}>')
        for name in ('bos_token', 'eos_token', 'pad_token', 'unk_token')
      }
    )
  )
  return tmp_path


def edit(folder, file, **changes):
  path = folder / file
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def lists(folder):
  """Merges as pairs, as in newer files."""
  content = json.loads((folder / 'tokenizer.json').read_text())
  model = content['model']
  edit(
    folder,
    'tokenizer.json',
    model=model | {'merges': [merge.split(' ') for merge in model['merges']]},
  )


CHANGES = {
  'as published': lambda folder: None,
  'merges as pairs': lists,
  'the older class': lambda folder: edit(
    folder, 'tokenizer_config.json', tokenizer_class='GemmaTokenizerFast'
  ),
  'tokens with flags': lambda folder: edit(
    folder,
    'tokenizer_config.json',
    bos_token=flags('<bos>') | {'__type': 'AddedToken'},
    extra_special_tokens=['<b>'],
  ),
  'a token behind the vocabulary': lambda folder: edit(
    folder, 'tokenizer_config.json', mask_token='<hole>'
  ),
  'the added tokens of tokenizer.json': lambda folder: edit(
    folder,
    'tokenizer_config.json',
    added_tokens_decoder={'0': flags('<pad>'), '9': flags('<start_of_turn>')},
  ),
}


@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_the_tokenizer_is_the_same_as_with_transformers(published, change):
  change(published)
  got = tokenizers.load(published)
  want = transformers.AutoTokenizer.from_pretrained(
    published, local_files_only=True, padding_side='right'
  )
  assert type(got) is type(want)
  assert got.backend_tokenizer.to_str() == want.backend_tokenizer.to_str()
  assert got.special_tokens_map == want.special_tokens_map
  for text in TEXTS:
    arguments = dict(
      padding='max_length',
      max_length=24,
      truncation=True,
      return_attention_mask=True,
    )
    assert got([text], **arguments) == want([text], **arguments)


@pytest.mark.parametrize(
  'change, key',
  [
    ({'vocab': {'a': 0, 'b': 2}}, 'model.vocab'),
    ({'vocab': []}, 'model.vocab'),
    ({'vocab': {'a': True}}, 'model.vocab'),
    ({'merges': ['h o t']}, 'model.merges'),
    ({'merges': [['h', 'zebra']]}, 'model.merges'),
    ({'merges': [7]}, 'model.merges'),
    ({'merges': None}, 'model.merges'),
    ({'type': 'Unigram'}, 'model.type'),
  ],
)
def test_an_invalid_vocabulary_is_refused(published, change, key):
  model = json.loads((published / 'tokenizer.json').read_text())['model']
  edit(published, 'tokenizer.json', model=model | change)
  with pytest.raises(UserError) as error:
    tokenizer_files.read(published)
  assert error.value.key == key


@pytest.mark.parametrize(
  'processor',
  [
    None,
    {'type': 'ByteLevel'},
    {'single': []},
    {
      'single': [
        {'SpecialToken': {'id': '<eos>', 'type_id': 0}},
        {'Sequence': {'id': 'A', 'type_id': 0}},
      ]
    },
  ],
)
def test_a_tokenizer_without_its_first_token_is_refused(published, processor):
  edit(published, 'tokenizer.json', post_processor=processor)
  with pytest.raises(UserError, match='<bos>') as error:
    tokenizer_files.read(published)
  assert (error.value.key, error.value.value) == ('post_processor', processor)
