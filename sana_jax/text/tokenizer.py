"""Gemma-style tokenizers: loading published ones, and training small ones.

Byte-pair encoding with byte fallback over text whose blanks are written '▁'.
Training splits texts before each '▁' and around punctuation, so that no merge
crosses a word's start: a word is the same token in any context, which Gemma's
published vocabulary does not guarantee.
"""

from collections.abc import Iterable
import os
import types

from sana_jax import fields
from sana_jax.errors import UserError
from sana_jax.printable import printable
from sana_jax.text import tokenizer_files

_SPECIALS = ('<pad>', '<eos>', '<bos>', '<unk>', '<mask>')  # Ids 0 to 4.
_BYTES = tuple(f'<0x{i:02X}>' for i in range(256))  # Ids 5 to 260.


def train(texts: Iterable[str], vocab_size: int):
  """Trains a GemmaTokenizer of at most `vocab_size` tokens, reproducibly.

  Each text is used as it is and after a blank, since a prompt follows the
  instruction's last blank but a negative prompt starts the text.

  Raises:
    UserError: the vocabulary is too small for the texts' characters.
  """
  import tokenizers as tk

  texts = [t for text in texts for t in (text, ' ' + text)]
  alphabet = set(''.join(texts).replace(' ', '▁'))
  fixed = [*_SPECIALS, *_BYTES]
  if vocab_size < len(fixed) + len(alphabet):
    raise UserError(
      f'vocab_size is {vocab_size}, but {len(fixed)} special and byte tokens '
      f'and {len(alphabet)} characters are required: raise vocab_size to at '
      f'least {len(fixed) + len(alphabet)}.',
      key='vocab_size',
      value=vocab_size,
      allowed=f'{len(fixed) + len(alphabet)} or more',
    )
  tokenizer = tk.Tokenizer(
    tk.models.BPE(byte_fallback=True, fuse_unk=True, unk_token='<unk>')
  )
  tokenizer.normalizer = tk.normalizers.Replace(' ', '▁')
  tokenizer.pre_tokenizer = tk.pre_tokenizers.Sequence(
    [
      tk.pre_tokenizers.Split('\n', 'isolated'),
      tk.pre_tokenizers.Punctuation('isolated'),
      tk.pre_tokenizers.Split('▁', 'merged_with_next'),
    ]
  )
  tokenizer.train_from_iterator(
    texts,
    tk.trainers.BpeTrainer(
      vocab_size=vocab_size, special_tokens=fixed, show_progress=False
    ),
  )
  return _gemma(tokenizer)


def load(folder: str | os.PathLike):
  """Loads the tokenizer in a local folder, with padding on the right.

  The result is transformers' GemmaTokenizer, made from checked data:
  transformers opens no file of the folder.

  Raises:
    UserError: a file is missing, damaged, or not of a Gemma tokenizer.
  """
  arguments = tokenizer_files.read(folder)
  added = {
    i: _token(token) for i, token in arguments.pop('added_tokens').items()
  }
  by_text = {str(token): token for token in added.values()}
  for name, token in arguments.items():
    if name.endswith('_token') and token is not None:
      token = _token(token)
      arguments[name] = by_text.get(str(token), token)
  arguments['extra_special_tokens'] = [
    _token(token) for token in arguments['extra_special_tokens']
  ]
  try:
    tokenizer = library().GemmaTokenizer(
      **arguments,
      added_tokens_decoder=added,
      padding_side='right',
      add_bos_token=True,
      add_eos_token=False,
      clean_up_tokenization_spaces=False,
    )
  except Exception as e:  # The library's parser raises plain Exception.
    raise UserError(
      f'The tokenizer in {os.fspath(folder)!r} cannot be created '
      f'({printable(e, 300)}); save it again or give another folder.',
      value=folder,
    ) from e
  ids = tokenizer.convert_tokens_to_ids(list(map(str, added.values())))
  if wrong := [i for i, got in zip(added, ids) if i != got]:
    raise UserError(
      f'The tokenizer in {os.fspath(folder)!r} has the added token '
      f'{fields.shown(str(added[wrong[0]]))} as {wrong[0]}, which is not its '
      'index in the vocabulary or after it.',
      key='added_tokens_decoder',
      value=wrong[0],
    )
  return tokenizer


def _token(token):
  """Token of a file; text without flags is returned unchanged."""
  import tokenizers as tk

  return tk.AddedToken(**token) if isinstance(token, dict) else token


def _gemma(trained):
  """GemmaTokenizer with the trained vocabulary and merges.

  It is rebuilt because training makes the byte tokens special tokens, which
  would then match their own spelling in a text.
  """
  import json

  GemmaTokenizer = library().GemmaTokenizer
  state = json.loads(trained.to_str())['model']
  return GemmaTokenizer(
    vocab=state['vocab'],
    merges=[tuple(m) for m in state['merges']],
    padding_side='right',
    add_bos_token=True,
    add_eos_token=False,
    clean_up_tokenization_spaces=False,
  )


def library() -> types.ModuleType:
  """The transformers library, without its warning that PyTorch is missing."""
  os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
  import transformers

  return transformers
