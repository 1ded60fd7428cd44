"""Parity of prompt encoding with diffusers' SanaPipeline.encode_prompt.

Covers window, masks and embeddings of real tokens, with a byte-pair tokenizer
like Gemma's, trained on the instruction and the prompts. Masked tokens are
never read and not compared.
"""

import functools

import jax.numpy as jnp
import numpy as np
import torch

from sana_jax.data.shapes.captions import captions, KINDS
from sana_jax.text import encode
from sana_jax.text.prompts import INSTRUCTION, INSTRUCTION_LINES
from sana_jax.tools.parity import pipelines
from sana_jax.tools.parity.ledger import Case, MODULE, relative_error

_PROMPTS = {
  'short, long, and longer than 300 tokens': pipelines.PROMPTS,
  'capitals and blanks at both ends': ('  A RED Circle ', '\tTwo Blue\n'),
  'empty': ('', ' '),
  'accents, Chinese, emoji': (
    'eine Füchsin im Café',
    '一只红色的狐狸',
    'a 🦊 & a 👩‍🚀 — “cosmos”',
  ),
  'digits, punctuation, markup': (
    '3 red circles, 12:30 (really!)',
    '<b>a red</b> circle...',
    'a_b-c\\n "d"',
  ),
}


def cases() -> list[Case]:
  """Cases of each kind of prompt, with and without the instruction."""
  case = functools.partial(Case, 'text', size='tiny', dtype='float32')
  rows = [
    case(
      f'{what}; {"behind" if instruction else "without"} the instruction',
      bound=MODULE,
      measure=functools.partial(_error, prompts, instruction),
    )
    for what, prompts in _PROMPTS.items()
    for instruction in (True, False)
  ]
  return rows + [
    case(
      'the instruction read once for all prompts',
      bound=MODULE,
      measure=functools.partial(_error, pipelines.PROMPTS, True, once=True),
    ),
    case(
      'token ids of 64 captions behind the instruction',
      bound=0.0,
      measure=_ids,
      against='transformers',
    ),
  ]


def _error(prompts, instruction, seed, once=False):
  theirs = pipelines.make(seed, prompts=prompts)
  ours = pipelines.saved(theirs)
  with torch.no_grad():
    want, mask, _, _ = theirs.encode_prompt(
      list(prompts),
      False,
      complex_human_instruction=list(INSTRUCTION_LINES)
      if instruction
      else None,
    )
  mask = mask.numpy().astype(bool)
  got, got_mask = encode.encode(
    ours.text_encoder.module,
    ours.text_encoder.variables['params'],
    ours.tokenizer,
    prompts,
    instruction=INSTRUCTION if instruction else '',
    prefix_cache={} if once else None,
  )
  if not np.array_equal(got_mask, mask):
    raise ValueError('the masks differ')
  return relative_error(np.asarray(got)[mask], want.numpy()[mask])


def _ids(seed):
  rng = np.random.default_rng(seed)
  every = [
    text
    for kind in KINDS
    for _, texts in captions(kind, 'train')
    for text in texts
  ]
  texts = [every[i] for i in rng.integers(len(every), size=64)]
  theirs = pipelines.make(seed, prompts=texts)
  ids, mask = encode.tokenize(theirs.tokenizer, texts, instruction=INSTRUCTION)
  lines = '\n'.join(INSTRUCTION_LINES)
  length = len(theirs.tokenizer.encode(lines)) + 300 - 2
  want = theirs.tokenizer(
    [lines + t for t in texts],
    padding='max_length',
    max_length=length,
    truncation=True,
    return_tensors='np',
    padding_side='right',
  )
  return max(
    relative_error(jnp.asarray(ids), want['input_ids']),
    relative_error(jnp.asarray(mask), want['attention_mask']),
  )
