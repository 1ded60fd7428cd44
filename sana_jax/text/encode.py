"""Encoding of prompts to the embeddings and mask that condition SANA.

The instruction and the cleaned prompt are tokenised as one text, padded on the
right to n + length - 2 tokens, where n counts the instruction's own tokens.
SANA uses `length` of these positions: the first (<bos>) and the last
length - 1, which begin where the instruction ends. The 2 are <bos> and the
token of the instruction's last blank, which merges with the prompt's first
word (SANA section 3.1; the numbers are those of diffusers' SanaPipeline).

Negative prompts are encoded without an instruction. Tokenisation runs on the
host; `embed` is pure, to be jitted by callers with a sharding.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
import functools

from absl import logging
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.errors import UserError
from sana_jax.printable import printable
from sana_jax.text.prompts import check, clean
from sana_jax.typing import Array, Bool, Float, Int, Params, PyTree

LENGTH = 300  # Text tokens of every published SANA.


class TextError(UserError):
  """Prompts that cannot be tokenized.

  Attributes:
    prompts: the invalid prompts of the call.
  """

  def __init__(self, message: str, prompts: Sequence[str]):
    super().__init__(message)
    self.prompts = tuple(prompts)


def tokenize(
  tokenizer,
  prompts: Sequence[str],
  *,
  instruction: str = '',
  length: int = LENGTH,
) -> tuple[Int[np.ndarray, 'b m'], Bool[np.ndarray, 'b m']]:
  """Token ids and mask of the instruction, followed by the cleaned prompts.

  m is `length` without an instruction, else n + length - 2. Longer prompts are
  truncated at the end.

  Raises:
    TextError: prompts that are not text, or that the tokenizer cannot encode.
  """
  total = length
  if instruction:
    total += len(tokenizer.encode(instruction)) - 2

  try:
    return _tokenize(tokenizer, prompts, instruction, total)
  except Exception as e:  # Tokenizers raise errors of any type.
    if not all(isinstance(p, str) for p in prompts):
      raise
    bad = {}
    for prompt in prompts:
      try:
        _tokenize(tokenizer, [prompt], instruction, total)
      except Exception as error:  # Tokenizers raise errors of any type.
        bad[prompt] = error
    if not bad:
      raise
    first = next(iter(bad.values()))
    raise TextError(
      str(first)
      if isinstance(first, UserError)
      else f'the tokenizer cannot encode the prompt ({first}).',
      list(bad),
    ) from e


def _tokenize(tokenizer, prompts, instruction, total):
  for prompt in prompts:
    check(prompt)
  tokens = tokenizer(
    [instruction + clean(p) for p in prompts],
    padding='max_length',
    max_length=total,
    truncation=True,
    padding_side='right',
    return_attention_mask=True,
  )
  ids = np.asarray(tokens['input_ids'], np.int32)
  return ids, np.asarray(tokens['attention_mask'], bool)


def cut_prompts(
  tokenizer,
  prompts: Sequence[str],
  mask: Bool[np.ndarray, 'b m'],
  *,
  instruction: str = '',
) -> dict[str, int]:
  """Number of tokens by prompt, of those that `tokenize` truncated.

  Args:
    mask: what `tokenize` returned for them.
  """
  full = [p for p, row in zip(prompts, mask) if row.all()]
  if not full:
    return {}
  outside = len(tokenizer.encode(instruction)) - 2 if instruction else 0
  ids = tokenizer([instruction + clean(p) for p in full])['input_ids']
  return {
    prompt: len(row) - outside
    for prompt, row in zip(full, ids)
    if len(row) > mask.shape[1]
  }


def warn_of_cut(
  cut: Mapping[str, int], length: int, seconds: float | int = 0
) -> None:
  """Logs a warning of truncated prompts, at most once in `seconds`."""
  if cut:
    prompt, tokens = next(iter(cut.items()))
    logging.log_every_n_seconds(
      logging.WARNING,
      'The prompt %r has %d tokens, of which the first %d are used%s.',
      seconds,
      printable(prompt, 60),
      tokens,
      length,
      f'; {len(cut) - 1} others are cut too' if len(cut) > 1 else '',
    )


def window(x: Array, length: int) -> Array:
  """Position 0 and the last length - 1 positions of axis 1."""
  return jnp.concatenate([x[:, :1], x[:, x.shape[1] - length + 1 :]], axis=1)


def embed(
  model: nn.Module,
  params: Params,
  ids: Int[Array, 'b m'],
  mask: Bool[Array, 'b m'],
  length: int = LENGTH,
) -> tuple[Float[Array, 'b {length} d'], Bool[Array, 'b {length}']]:
  """Last hidden states of the text encoder and mask, inside the window."""
  states = model.apply({'params': params}, ids, mask)
  return window(states, length), window(mask, length)


def encode(
  model: nn.Module,
  params: Params,
  tokenizer,
  prompts: Sequence[str],
  *,
  instruction: str = '',
  length: int = LENGTH,
  prefix_cache: MutableMapping | None = None,
  put: Callable[[Array], Array] = jnp.asarray,
) -> tuple[Float[Array, 'b {length} d'], Bool[Array, 'b {length}']]:
  """Embeddings and mask of prompts; compiles once per number of prompts.

  Args:
    prefix_cache: states, keys and values of this model for instructions, which
      are then encoded only once. The embeddings are the same, with 40 % less
      work for the published instruction and 300 tokens.
    put: puts an array with a leading batch axis on the devices.
  """
  ids, mask = tokenize(
    tokenizer, prompts, instruction=instruction, length=length
  )
  before = ids.shape[1] - length + 1
  prefix = ids[:1, :before]
  # A tokenizer might merge the instruction's end with a prompt.
  same = mask[:, :before].all() and (ids[:, :before] == prefix).all()
  if prefix_cache is None or before == 1 or not same:
    return _embed(model, params, put(ids), put(mask), length)
  key = prefix.tobytes()
  if key not in prefix_cache:
    prefix_cache[key] = encode_prefix(model, params, jnp.asarray(prefix))
  return _embed_with_prefix(
    model,
    params,
    *prefix_cache[key],
    put(ids[:, before:]),
    put(mask[:, before:]),
  )


_embed = jax.jit(embed, static_argnums=(0, 4))


@functools.partial(jax.jit, static_argnums=0)
def encode_prefix(
  model: nn.Module, params: Params, prefix: Int[Array, '1 k']
) -> tuple[Float[Array, '1 k d'], PyTree]:
  """Hidden states of an instruction, and its keys and values."""
  return model.apply({'params': params}, prefix, method='read')


def embed_with_prefix(
  model: nn.Module,
  params: Params,
  first: Float[Array, '1 k d'],
  past: PyTree,
  ids: Int[Array, 'b l'],
  mask: Bool[Array, 'b l'],
) -> tuple[Float[Array, 'b l+1 d'], Bool[Array, 'b l+1']]:
  """Result of `embed` for tokens after an instruction in the prefix cache."""
  states = model.apply({'params': params}, ids, mask, past)
  first = jnp.broadcast_to(first[:, :1], (len(ids), 1, first.shape[2]))
  return (
    jnp.concatenate([first, states], axis=1),
    jnp.concatenate([jnp.ones_like(mask[:, :1]), mask], axis=1),
  )


_embed_with_prefix = jax.jit(embed_with_prefix, static_argnums=0)
