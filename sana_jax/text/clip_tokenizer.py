"""CLIP's tokenizer: lower-cased byte-pair encoding between two special tokens.

The result is transformers' CLIPTokenizer, made from checked data: it uses the
vocabulary and the merges of a folder, and neither its normalizer nor its
regular expressions, which are always CLIP's. OpenAI's own code also repairs
wrongly decoded text and unescapes HTML before it, which transformers omits.
"""

from collections.abc import Sequence
import os
import pathlib
from typing import Any

import numpy as np

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.printable import printable
from sana_jax.text import prompts as texts
from sana_jax.text.tokenizer import library
from sana_jax.text.tokenizer_files import byte_pairs
from sana_jax.typing import Int

BOS, EOS = '<|startoftext|>', '<|endoftext|>'
_WHOLE, _VOCAB, _MERGES = 'tokenizer.json', 'vocab.json', 'merges.txt'
_MOST_BYTES = 2**26


def load(folder: str | os.PathLike) -> Any:
  """The tokenizer of tokenizer.json, or of vocab.json and merges.txt.

  Raises:
    UserError: a file is missing, damaged, or not of CLIP's tokenizer.
  """
  folder = pathlib.Path(folder)
  if os.path.lexists(folder / _WHOLE):
    where = str(folder / _WHOLE)
    content = files.read_json(folder / _WHOLE, most=_MOST_BYTES)
    vocab, merges = byte_pairs(where, content.get('model'))
    _check_added(where, content.get('added_tokens') or [])
  else:
    where = str(folder)
    model = {'type': 'BPE', **_two_files(folder)}
    vocab, merges = byte_pairs(where, model, (_VOCAB, _MERGES))
  if missing := [token for token in (BOS, EOS) if token not in vocab]:
    raise UserError(
      f'{where}: the vocabulary has no {missing[0]}; this is not the tokenizer '
      'of CLIP.',
      key=missing[0],
      value=where,
      allowed=(BOS, EOS),
    )
  try:
    return library().CLIPTokenizer(vocab=vocab, merges=merges)
  except Exception as e:  # The library's parser raises plain Exception.
    raise UserError(
      f'The tokenizer in {str(folder)!r} cannot be created '
      f'({printable(e, 300)}); save it again or give another folder.',
      value=folder,
    ) from e


def _two_files(folder):
  try:
    return {
      'vocab': files.read_json(folder / _VOCAB, most=_MOST_BYTES),
      'merges': _lines(folder / _MERGES),
    }
  except FileNotFoundError:
    raise UserError(
      f'No tokenizer in {str(folder)!r}: it needs {_WHOLE}, or {_VOCAB} and '
      f'{_MERGES}; copy those of the CLIP model.',
      value=folder,
      allowed=(_WHOLE, _VOCAB, _MERGES),
    ) from None


def _lines(path):
  """Lines of a file of merges without its version."""
  try:
    text = files.read_bytes(path, _MOST_BYTES).decode()
  except FileNotFoundError:
    raise
  except (OSError, UnicodeDecodeError) as e:
    raise UserError(
      f'{path} cannot be read ({printable(e, 200)}).', value=path
    ) from e
  # Not splitlines, which also splits at other characters.
  lines = [line.removesuffix('\r') for line in text.split('\n')]
  if lines[0].startswith('#version'):
    lines = lines[1:]
  return [line for line in lines if line]


def _check_added(where, added):
  """Raises UserError for tokens that CLIP's vocabulary does not have."""
  tokens = added if isinstance(added, list) else [added]
  names = [x.get('content') if isinstance(x, dict) else x for x in tokens]
  if others := [name for name in names if name not in (BOS, EOS)]:
    raise UserError(
      f'{where}: the added token {printable(repr(others[0]), 80)} is not '
      f'supported; only {BOS} and {EOS} are.',
      key='added_tokens',
      value=others[0],
      allowed=(BOS, EOS),
    )


def encode(
  tokenizer: Any, prompts: Sequence[str], length: int
) -> Int[np.ndarray, 'b {length}']:
  """Ids of prompts, cut at `length` tokens with both special ones kept.

  Raises:
    UserError: a prompt is not valid text, or has a character without a token
      or the text of the special one that ends it.
  """
  for prompt in prompts:
    texts.check(prompt)
  found = tokenizer(
    list(prompts),
    padding='max_length',
    truncation=True,
    max_length=length,
    return_tensors='np',
  )
  ids = found['input_ids'].astype(np.int32)
  ends = found['attention_mask'].sum(axis=1) - 1
  first = np.argmax(ids == tokenizer.eos_token_id, axis=1)
  for i in np.flatnonzero(first < ends):
    raise UserError(
      f'CLIP cannot encode the prompt {printable(repr(prompts[i]), 100)}: its '
      f'token {first[i]} is {EOS}, or a character that the vocabulary does not '
      'have.',
      key='prompt',
      value=prompts[i],
    )
  return ids
