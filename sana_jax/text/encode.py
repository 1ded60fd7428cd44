"""From prompts to the embeddings and mask that condition SANA.

The instruction and the cleaned prompt are tokenised as one text, padded on the
right to n + length - 2 tokens, where n counts the instruction's own tokens.
SANA then reads `length` of these positions: the first (<bos>) and the last
length - 1, which begin where the instruction ends. The 2 are <bos> and the
token of the instruction's last blank, which merges with the prompt's first
word (SANA section 3.1; diffusers' SanaPipeline, whose numbers these are).

Negative prompts are encoded without an instruction. Tokenising happens on the
host; `embed` is pure, to be jitted where its sharding is known.
"""

from collections.abc import Callable, MutableMapping, Sequence
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.errors import UserError
from sana_jax.text.prompts import check, clean
from sana_jax.typing import Array, Bool, Float, Int, Params, PyTree

LENGTH = 300  # Text tokens of every published SANA.


class TextError(UserError):
  """Prompts that cannot be tokenized.

  Attributes:
    prompts: these, and no others of the same call.
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
  """Token ids and mask of the cleaned prompts behind the instruction.

  m is `length` without an instruction, else n + length - 2. Longer prompts are
  cut at the end.

  Raises:
    TextError: prompts that are no text, or that the tokenizer cannot encode.
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
      except Exception as mine:  # As above.
        bad[prompt] = mine
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


def window(x: Array, length: int) -> Array:
  """Position 0 and the last length - 1 of axis 1."""
  return jnp.concatenate([x[:, :1], x[:, x.shape[1] - length + 1 :]], axis=1)


def embed(
  model: nn.Module,
  params: Params,
  ids: Int[Array, 'b m'],
  mask: Bool[Array, 'b m'],
  length: int = LENGTH,
) -> tuple[Float[Array, 'b {length} d'], Bool[Array, 'b {length}']]:
  """The text encoder's last hidden states and mask inside the window."""
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
  beginnings: MutableMapping | None = None,
  place: Callable[[Array], Array] = jnp.asarray,
) -> tuple[Float[Array, 'b {length} d'], Bool[Array, 'b {length}']]:
  """Embeddings and mask of prompts; compiles once per number of prompts.

  Args:
    beginnings: of this model; keeps what it made of the instruction, which is
      then read only once. The embeddings are the same, with 40 % less work
      for the published instruction and 300 tokens.
    place: puts an array with a leading batch axis where it belongs.
  """
  ids, mask = tokenize(
    tokenizer, prompts, instruction=instruction, length=length
  )
  before = ids.shape[1] - length + 1
  beginning = ids[:1, :before]
  # A tokenizer might merge the instruction's end with a prompt.
  alike = mask[:, :before].all() and (ids[:, :before] == beginning).all()
  if beginnings is None or before == 1 or not alike:
    return _embed(model, params, place(ids), place(mask), length)
  key = beginning.tobytes()
  if key not in beginnings:
    beginnings[key] = read(model, params, jnp.asarray(beginning))
  return _embed_behind(
    model,
    params,
    *beginnings[key],
    place(ids[:, before:]),
    place(mask[:, before:]),
  )


_embed = jax.jit(embed, static_argnums=(0, 4))


@functools.partial(jax.jit, static_argnums=0)
def read(
  model: nn.Module, params: Params, beginning: Int[Array, '1 k']
) -> tuple[Float[Array, '1 k d'], PyTree]:
  """What the model makes of an instruction: its states, and keys and values."""
  return model.apply({'params': params}, beginning, method='read')


def embed_behind(
  model: nn.Module,
  params: Params,
  first: Float[Array, '1 k d'],
  past: PyTree,
  ids: Int[Array, 'b l'],
  mask: Bool[Array, 'b l'],
) -> tuple[Float[Array, 'b l+1 d'], Bool[Array, 'b l+1']]:
  """What `embed` gives, of the tokens behind an instruction that was `read`."""
  states = model.apply({'params': params}, ids, mask, past)
  first = jnp.broadcast_to(first[:, :1], (len(ids), 1, first.shape[2]))
  return (
    jnp.concatenate([first, states], axis=1),
    jnp.concatenate([jnp.ones_like(mask[:, :1]), mask], axis=1),
  )


_embed_behind = jax.jit(embed_behind, static_argnums=0)
