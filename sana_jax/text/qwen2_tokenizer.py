"""Qwen2's tokenizer, created from checked data, and its chat format.

  tokenizer.json                  the vocabulary, the merges, the added tokens
  or vocab.json and merges.txt    the vocabulary and the merges
  tokenizer_config.json           the added tokens, the chat template

As for Gemma (tokenizer_files.py), transformers opens no file of the folder, and
the regular expression that splits words is always Qwen2's. A chat template is
a program in Jinja and is not run: only ChatML is supported, and of the template
only the system message that begins a chat is used.
"""

import os
import pathlib
import re
from typing import Any, NamedTuple

from sana_jax import fields, files
from sana_jax.errors import UserError
from sana_jax.printable import printable
from sana_jax.text import tokenizer_files

_BYTES = 2**26  # Limit of a file.
_CHAT = ('<|im_start|>', '<|im_end|>')
_CLASSES = fields.choice('Qwen2Tokenizer', 'Qwen2TokenizerFast')
# NVlabs/VILA's llava/model/language_model/chat_templates/qwen2.jinja.
_SYSTEM = {'qwen2': 'You are a helpful assistant'}
_SYSTEM_OF = re.compile(
  r'<\|im_start\|>system(?:\\n|\n)([^{}\'"]{0,500}?)<\|im_end\|>'
)


class Chat(NamedTuple):
  """A tokenizer and the system message of a chat; '' for none."""

  tokenizer: Any
  system: str

  def text(self, message: str) -> str:
    """A user's message in ChatML, up to where the answer begins."""
    start, end = _CHAT
    turns = [('system', self.system)] * bool(self.system) + [('user', message)]
    done = ''.join(f'{start}{who}\n{what}{end}\n' for who, what in turns)
    return f'{done}{start}assistant\n'

  def ids(self, text: str) -> list[int]:
    """Tokens of a text, without any that a tokenizer adds."""
    return self.tokenizer.encode(text, add_special_tokens=False)


def load(folder: str | os.PathLike, template: str | None = None) -> Chat:
  """The tokenizer in a local folder.

  Args:
    template: name of a chat template of NVlabs/VILA; None for the folder's own.

  Raises:
    UserError: a file is missing, damaged, or not of Qwen2.
  """
  folder = pathlib.Path(folder)
  config = _json(folder, 'tokenizer_config.json')
  where = str(folder / 'tokenizer_config.json')
  fields.check(
    where, {'tokenizer_class': None, **config}, {'tokenizer_class': _CLASSES}
  )
  vocab, merges, tokens = _files(folder)
  if 'added_tokens_decoder' in config:
    tokens = tokenizer_files.by_id(where, config['added_tokens_decoder'])
  added = tokenizer_files.added(where, tokens)
  tokenizer = _created(folder, vocab, merges, added)
  if missing := [x for x in _CHAT if x not in _texts(added)]:
    raise UserError(
      f'{where}: there is no token {missing[0]}; a judge needs ChatML.',
      key='added_tokens_decoder',
      value=folder,
      allowed=_CHAT,
    )
  system = _SYSTEM[template] if template else _system(folder, where, config)
  return Chat(tokenizer, system)


def _files(folder):
  """Vocabulary, merges and added tokens."""
  if (folder / 'tokenizer.json').exists():
    where = str(folder / 'tokenizer.json')
    content = _json(folder, 'tokenizer.json')
    found = tokenizer_files.byte_pairs(where, content.get('model'))
    return *found, content.get('added_tokens') or []
  try:
    text = files.read_bytes(folder / 'merges.txt', _BYTES).decode()
  except FileNotFoundError:
    raise UserError(
      f'No tokenizer in {str(folder)!r}: tokenizer.json, or vocab.json and '
      'merges.txt, are missing.',
      value=folder,
      allowed=('tokenizer.json', 'merges.txt'),
    ) from None
  except (OSError, ValueError) as e:
    raise UserError(
      f'{folder / "merges.txt"} cannot be read ({printable(e, 200)}).',
      value=folder,
    ) from e
  text = re.sub('^#version[^\n]*\n', '', text)
  lines = list(filter(None, text.split('\n')))
  model = {'type': 'BPE', 'vocab': _json(folder, 'vocab.json')}
  where = str(folder / 'vocab.json')
  return *tokenizer_files.byte_pairs(where, {**model, 'merges': lines}), []


def _json(folder, name):
  try:
    return files.read_json(folder / name, most=_BYTES)
  except FileNotFoundError:
    raise UserError(
      f'No tokenizer in {str(folder)!r}: {name} is missing.',
      value=folder,
      allowed=(name,),
    ) from None


def _created(folder, vocab, merges, added):
  """transformers' Qwen2Tokenizer; UserError if ids are not consecutive."""
  os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
  import tokenizers
  import transformers

  tokens = {
    i: tokenizers.AddedToken(**token) if isinstance(token, dict) else token
    for i, token in sorted(added.items())
  }
  try:
    tokenizer = transformers.Qwen2Tokenizer(
      vocab=vocab,
      merges=merges,
      added_tokens_decoder=tokens,
      unk_token=None,
      eos_token=None,
      pad_token=None,
    )
  except Exception as e:  # The library's parser raises plain Exception.
    raise UserError(
      f'The tokenizer in {str(folder)!r} cannot be created '
      f'({printable(e, 300)}).',
      value=folder,
    ) from e
  got = tokenizer.convert_tokens_to_ids(_texts(added))
  if wrong := [i for i, n in zip(sorted(added), got) if i != n]:
    raise UserError(
      f'The tokenizer in {str(folder)!r} has an added token as {wrong[0]}, '
      'which is not its index after the vocabulary.',
      key='added_tokens_decoder',
      value=wrong[0],
    )
  return tokenizer


def _texts(added):
  return [
    token['content'] if isinstance(token, dict) else token
    for _, token in sorted(added.items())
  ]


def _system(folder, where, config):
  """System message of the folder's own template, which must be ChatML."""
  template = config.get('chat_template')
  path = folder / 'chat_template.jinja'
  if template is None and path.exists():
    template = files.read_bytes(path, _BYTES).decode(errors='replace')
  if not isinstance(template, str) or not all(x in template for x in _CHAT):
    raise UserError(
      f'{where}: chat_template is {fields.shown(template)}; a judge needs '
      'one in ChatML, with <|im_start|> and <|im_end|>.',
      key='chat_template',
      value=template,
      allowed=_CHAT,
    )
  found = list(dict.fromkeys(_SYSTEM_OF.findall(template)))
  if len(found) > 1:
    raise UserError(
      f'{where}: chat_template has {len(found)} system messages; a judge needs '
      'one at most.',
      key='chat_template',
      value=found,
    )
  return found[0] if found else ''
