"""Texts of a call: types, padded length, one negative prompt for all."""

from collections.abc import Iterable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp

from sana_jax.errors import UserError
from sana_jax.inference import few_steps
from sana_jax.printable import counted
from sana_jax.text import encode, prompts, vocabulary
from sana_jax.text.prompts import INSTRUCTION
from sana_jax.typing import PyTree

# Text is padded to one of these lengths, not always to 300: padding is masked,
# so the result is the same, and small models are several times faster.
TEXT_LENGTHS = (16, 32, 64, 128, encode.LENGTH)


def text_length(tokenizer, texts: Sequence[str], instruction: str) -> int:
  """The shortest of TEXT_LENGTHS that truncates no prompt.

  Logs a warning of prompts that the longest one truncates.
  """
  _, mask = encode.tokenize(tokenizer, texts, instruction=instruction)
  encode.warn_of_cut(
    encode.cut_prompts(tokenizer, texts, mask, instruction=instruction),
    encode.LENGTH,
  )
  outside = mask.shape[1] - encode.LENGTH  # The instruction without <bos>.
  needed = int(mask.sum(axis=1).max()) - outside
  return next(n for n in TEXT_LENGTHS if n >= min(needed, encode.LENGTH))


def encoded(
  pipe,
  prompts: Sequence[str],
  negative_prompt: str | Sequence[str] | None,
  instruction: str | Sequence[str] | None,
) -> tuple[PyTree, PyTree | None]:
  """(embeddings, mask) of the prompts, and of the negative ones.

  There is a negative one for each prompt, or one for all, or None if the model
  has its guidance scale as an input.
  """
  negatives = negatives_of(negative_prompt, len(prompts))
  instruction = instruction_of(instruction)
  if few_steps.is_sprint(pipe.transformer.module):
    negatives = []
  warn_of_unknown(pipe, [*prompts, *negatives])
  length = max(
    text_length(pipe.tokenizer, x, prefix)
    for x, prefix in ((prompts, instruction), (negatives, ''))
    if x
  )
  run = functools.partial(
    encode.encode,
    pipe.text_encoder.module,
    pipe.text_encoder.variables['params'],
    pipe.tokenizer,
    length=length,
    prefix_cache=pipe.cache,
    put=pipe.split,
  )
  if not negatives:
    negative = None
  elif len(negatives) > 1:
    negative = run(negatives)
  elif (negative := pipe.cache.get((negatives[0], length))) is None:
    negative = pipe.cache[negatives[0], length] = run(negatives)
  return run(prompts, instruction=instruction), negative


def warn_of_unknown(pipe, texts: Iterable[str]) -> None:
  """Logs a warning of words that the model was not trained on, each once."""
  warned = pipe.cache.setdefault('words of warnings', set())
  vocabulary.warn(texts, pipe.vocabulary.words, warned)


def notes(pipe, texts: Sequence[str]) -> list[str]:
  """Sentences about a request whose texts the model does not use in full.

  They are about its truncated prompt, the first of `texts`, and about words of
  all texts that the model was not trained on.
  """
  prompt, words = texts[0], pipe.vocabulary.words
  _, mask = encode.tokenize(pipe.tokenizer, [prompt], instruction=INSTRUCTION)
  cut = encode.cut_prompts(
    pipe.tokenizer, [prompt], mask, instruction=INSTRUCTION
  )
  found = vocabulary.note(vocabulary.unknown(texts, words), words)
  return [
    *[
      'The prompt is longer than the text limit of the model: its end is '
      'ignored.'
    ]
    * bool(cut),
    *[found] * bool(found),
  ]


def texts_of(name: str, value: Any) -> list[str]:
  """One text or several, as a list; UserError for anything else."""
  found = list(value) if isinstance(value, list | tuple) else [value]
  if not found:
    raise UserError(f'There is no {name}; give at least one.', key=name)
  for text in found:
    prompts.check(text, name)
  return found


def instruction_of(value: str | Sequence[str] | None) -> str:
  """An instruction of one text, or of lines as in diffusers; None is none."""
  return '' if value is None else '\n'.join(texts_of('instruction', value))


def negatives_of(value: str | Sequence[str] | None, count: int) -> list[str]:
  """A negative prompt for each of `count` prompts, or one for all."""
  found = texts_of('negative_prompt', value or '')
  if len(found) == 1 or len(found) == count > len(set(found)) == 1:
    return found[:1]
  if len(found) != count:
    raise UserError(
      f'negative_prompt has {counted(len(found), "entry", "entries")} for '
      f'{counted(count, "prompt")}.',
      key='negative_prompt',
      value=found,
      allowed=f'one, or {count}',
    )
  return found


def repeated(text: PyTree, negative: PyTree | None, images: int) -> tuple:
  """Rows of each prompt repeated for its images; one negative row stays one."""
  repeat = lambda x: jnp.repeat(x, images, axis=0)
  if negative is not None and len(negative[1]) > 1:
    negative = jax.tree.map(repeat, negative)
  return jax.tree.map(repeat, text), negative
