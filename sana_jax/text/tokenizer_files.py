"""Files of a saved Gemma tokenizer, read as data and checked.

  tokenizer.json          the vocabulary, the merges and the added tokens
  tokenizer_config.json   the class and the names of the special tokens

Like transformers' GemmaTokenizer, this uses nothing else of tokenizer.json: the
normalizer and the pre-tokenizer, whose regular expressions could run forever,
are always Gemma's. No other file is opened, and only Gemma's class is
supported: a folder that requires its own code is refused.
"""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

from sana_jax import fields, files
from sana_jax.errors import UserError

NAMES = ('tokenizer.json', 'tokenizer_config.json')
_BYTES = {'tokenizer.json': 2**26, 'tokenizer_config.json': 2**22}
_MOST_TOKENS, _MOST_ADDED = 2**21, 10_000
_TEXT = fields.text(1000)
_FLAGS = ('single_word', 'lstrip', 'rstrip', 'normalized', 'special')
_ADDED = {'content': _TEXT, **dict.fromkeys(_FLAGS, fields.FLAG)}
_TOKEN = fields.Field(
  f'{_TEXT.allowed}, or an object with such a content and flags',
  lambda value: (
    'content' in value
    and all(
      field.test(value[key]) for key, field in _ADDED.items() if key in value
    )
    if isinstance(value, dict)
    else _TEXT.test(value)
  ),
)
_SPECIAL = ('pad_token', 'eos_token', 'bos_token', 'unk_token')
_EXTRA = ('extra_special_tokens', 'additional_special_tokens')
_CONFIG = {
  'tokenizer_class': fields.choice('GemmaTokenizer', 'GemmaTokenizerFast'),
  'auto_map': fields.NULL,
  **dict.fromkeys(_SPECIAL, _TOKEN),
  'mask_token': fields.either(_TOKEN, fields.NULL),
  **dict.fromkeys(
    _EXTRA,
    fields.either(
      fields.NULL,
      fields.list_of(_TOKEN, 0, _MOST_ADDED),
      fields.Field('{}', lambda value: value == {}),
    ),
  ),
  'model_max_length': fields.either(fields.number(1, 1e40), fields.NULL),
  'padding_side': fields.choice('left', 'right'),
  'truncation_side': fields.choice('right'),
  'split_special_tokens': fields.Field('false', lambda value: value is False),
}
_DEFAULTS = {
  'pad_token': '<pad>',
  'eos_token': '<eos>',
  'bos_token': '<bos>',
  'unk_token': '<unk>',
  'mask_token': '<mask>',
}


def read(folder: str | os.PathLike) -> dict[str, Any]:
  """Arguments of transformers' GemmaTokenizer; tokens with flags are objects.

  'added_tokens' has the tokens that are matched before all others, by id.

  Raises:
    UserError: a file is missing, damaged, or not of a Gemma tokenizer.
  """
  folder = pathlib.Path(folder)
  missing = [name for name in NAMES if not os.path.exists(folder / name)]
  if missing:
    raise UserError(
      f'No tokenizer in {str(folder)!r}: '
      f'{" and ".join(missing)} missing; give a folder that '
      'contains them.',
      value=folder,
      allowed=missing,
    )
  content, config = (
    files.read_json(folder / name, most=_BYTES[name]) for name in NAMES
  )
  where, about = (str(folder / name) for name in NAMES)
  config = {'tokenizer_class': None, **config}
  fields.check(about, config, _CONFIG)
  vocab, merges = byte_pairs(where, content.get('model'))
  special = {
    name: _known(config.get(name, default))
    for name, default in _DEFAULTS.items()
  }
  known = (
    added(where, content.get('added_tokens') or [])
    if 'added_tokens_decoder' not in config
    else added(about, by_id(about, config['added_tokens_decoder']))
  )
  for name in _SPECIAL:
    if (text := _text(special[name])) not in vocab:
      raise UserError(
        f'{about}: {name} is {fields.shown(text)}, which the '
        'vocabulary does not have.',
        key=name,
        value=text,
      )
  _check_beginning(where, content.get('post_processor'), special['bos_token'])
  return {
    'vocab': vocab,
    'merges': merges,
    'added_tokens': known,
    **special,
    'extra_special_tokens': [
      _known(token)
      for token in (config.get(_EXTRA[0]) or config.get(_EXTRA[1]) or [])
    ],
  }


def byte_pairs(
  where: str,
  model: Any,
  names: tuple[str, str] = ('model.vocab', 'model.merges'),
) -> tuple[dict[str, int], list[tuple[str, str]]]:
  """Vocabulary, whose ids are 0 to n - 1, and merges of byte-pair encoding.

  Args:
    model: the entry `model` of a tokenizer.json.
    names: names of the two in messages.

  Raises:
    UserError: it is of another type, or damaged.
  """
  if not isinstance(model, dict) or model.get('type') != 'BPE':
    raise UserError(
      f'{where}: model is not of type BPE.',
      key='model.type',
      allowed=('BPE',),
    )
  vocab, merges = model.get('vocab'), model.get('merges')
  ids = vocab.values() if isinstance(vocab, dict) else ()
  if (
    not 0 < len(ids) <= _MOST_TOKENS
    or not all(type(i) is int for i in ids)
    or set(ids) != set(range(len(ids)))
  ):
    raise UserError(
      f'{where}: {names[0]} must be an object of 1 to {_MOST_TOKENS:,} '
      'tokens, whose ids are 0, 1, 2 and so on.',
      key=names[0],
    )
  if not isinstance(merges, list) or len(merges) > _MOST_TOKENS:
    raise UserError(
      f'{where}: {names[1]} must be a list of at most '
      f'{_MOST_TOKENS:,} pairs of tokens.',
      key=names[1],
    )
  pairs = [tuple(m.split(' ')) if isinstance(m, str) else m for m in merges]
  for pair in pairs:
    if not (
      isinstance(pair, list | tuple)
      and len(pair) == 2
      and all(isinstance(x, str) and x in vocab for x in pair)
      and ''.join(pair) in vocab
    ):
      raise UserError(
        f'{where}: {names[1]} has {fields.shown(pair)}, which '
        'is not a pair of tokens that form another one.',
        key=names[1],
        value=pair,
      )
  return vocab, [tuple(pair) for pair in pairs]


def by_id(where: str, tokens: Any) -> list[dict[str, Any]]:
  """Entries of an added_tokens_decoder in the form of tokenizer.json."""
  if not isinstance(tokens, dict) or not all(
    isinstance(token, dict) for token in tokens.values()
  ):
    raise UserError(
      f'{where}: added_tokens_decoder must be an object of tokens by '
      'their ids.',
      key='added_tokens_decoder',
    )
  return [
    {**token, 'id': int(i) if i.isdecimal() and len(i) < 9 else i}
    for i, token in tokens.items()
  ]


def added(where: str, tokens: Any) -> dict[int, Mapping[str, Any]]:
  """Added tokens of a file by id, with flags; UserError for invalid ones."""
  if not isinstance(tokens, list) or len(tokens) > _MOST_ADDED:
    raise UserError(
      f'{where}: the added tokens must be a list of at most '
      f'{_MOST_ADDED:,} objects.',
      key='added_tokens',
    )
  for token in tokens:
    entry = (
      {'content': None, 'id': None, **token}
      if isinstance(token, dict)
      else {'content': None}
    )
    fields.check(
      f'{where}, added tokens',
      entry,
      {**_ADDED, 'id': fields.integer(0, _MOST_TOKENS)},
    )
  return {token['id']: _known(token) for token in tokens}


def _check_beginning(where, processor, bos):
  """Raises UserError unless the tokenizer adds only <bos>.

  SANA's text encoder was trained with it, and positions are counted from it.
  """
  single = processor.get('single') if isinstance(processor, dict) else None
  wanted = [
    {'SpecialToken': {'id': _text(bos), 'type_id': 0}},
    {'Sequence': {'id': 'A', 'type_id': 0}},
  ]
  if single != wanted:
    raise UserError(
      f'{where}: post_processor must only prepend {_text(bos)} to a text, '
      f'but is '
      f'{fields.shown(processor)}.',
      key='post_processor',
      value=processor,
    )


def _known(token):
  """A token with only the arguments of AddedToken."""
  return (
    token
    if not isinstance(token, dict)
    else {key: token[key] for key in _ADDED if key in token}
  )


def _text(token):
  return token['content'] if isinstance(token, dict) else token
