"""The frozen models: images to latents, captions to embeddings.

The pure functions are used both by the cache and by a train step that encodes
online, so that the two give the same numbers.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from sana_jax.data.records import BadRecord
from sana_jax.errors import UserError
from sana_jax.inference.texts import TEXT_LENGTHS
from sana_jax.models.autoencoders import base as autoencoders
from sana_jax.objectives.reconstruction import to_signed
from sana_jax.text import encode
from sana_jax.text import prompts as texts
from sana_jax.text import tokenizer as tokenizers
from sana_jax.typing import Array, Bool, Float, Int, PyTree, UInt8
from sana_jax.weights import folder as folders
from sana_jax.weights import hub
from sana_jax.weights.folder import Model

_WARNING_SECONDS = 600  # Between warnings of captions that are cut.
# Parts of the model folder that each key of the config names.
PARTS = {'autoencoder': ('vae',), 'text_encoder': ('text_encoder', 'tokenizer')}


def find(config: ConfigDict, key: str) -> pathlib.Path:
  """The folder of config.autoencoder or config.text_encoder.

  If that is empty, it is the model of config.init_from.
  """
  name = config[key] or config.init_from
  if not name:
    raise UserError(
      f'config.{key} is empty; set it to a model folder with '
      f'{" and ".join(PARTS[key])}, such as the model/ of a run.',
      key=key,
    )
  return hub.find(name)


def instruction_of(config: ConfigDict) -> str:
  """The prefix of every caption."""
  return texts.INSTRUCTION if config.flow.instruction else ''


def load_autoencoder(
  config: ConfigDict, mesh: Mesh | None = None, only: str = 'encoder'
) -> Model:
  """The autoencoder of config.autoencoder, or one half of it."""
  return folders.load(
    find(config, 'autoencoder'), 'vae', config.dtype, mesh, only
  )


def load_text_encoder(config: ConfigDict, mesh: Mesh | None = None) -> Model:
  """The text encoder of config.text_encoder."""
  return folders.load(
    find(config, 'text_encoder'), 'text_encoder', config.dtype, mesh
  )


def compression(config: ConfigDict) -> int:
  """Side in pixels of one latent of config.autoencoder."""
  return folders.describe(find(config, 'autoencoder'), 'vae').spec.side


def load_tokenizer(config: ConfigDict) -> Any:
  """The tokenizer beside the text encoder."""
  return tokenizers.load(find(config, 'text_encoder') / 'tokenizer')


def encode_images(
  module: nn.Module, variables: PyTree, images: UInt8[Array, 'b y x 3']
) -> Float[Array, 'b y2 x2 c']:
  """Latents of about unit variance of uint8 images."""
  return autoencoders.encode(module, variables, to_signed(images))


def encode_captions(
  model: Model,
  tokenizer: Any,
  captions: Sequence[str],
  instruction: str,
  limit: int,
  prefix_cache: dict,
  put: Callable[[Array], Array],
) -> tuple[Float[Array, 'b m e'], Bool[Array, 'b m']]:
  """Embeddings and mask, of the shortest standard length that truncates none.

  Args:
    limit: maximum length in tokens.
    prefix_cache, put: those of text.encode.encode.
  """
  length = needed_length(tokenizer, captions, instruction, limit)
  return encode.encode(
    model.module,
    model.variables['params'],
    tokenizer,
    captions,
    instruction=instruction,
    length=length,
    prefix_cache=prefix_cache,
    put=put,
  )


def needed_length(
  tokenizer: Any, captions: Sequence[str], instruction: str, limit: int
) -> int:
  """The first standard length that truncates no caption, or the limit."""
  _, mask = encode.tokenize(
    tokenizer, captions, instruction=instruction, length=limit
  )
  _warn_of_cut(tokenizer, captions, mask, instruction, limit)
  outside = mask.shape[1] - limit  # The instruction without <bos>.
  return usual_length(int(mask.sum(axis=1).max()) - outside, limit)


def _warn_of_cut(tokenizer, captions, mask, instruction, limit):
  cut = encode.cut_prompts(tokenizer, captions, mask, instruction=instruction)
  encode.warn_of_cut(cut, limit, _WARNING_SECONDS)


def usual_length(needed: int, limit: int) -> int:
  """The first standard length that is long enough, or the limit."""
  return min([n for n in TEXT_LENGTHS if n >= needed] + [limit])


@dataclasses.dataclass(frozen=True)
class OnlineText:
  """Embeds captions inside a jitted step, with a KV cache of the instruction.

  Attributes:
    module: the text encoder.
    prefix: token ids of the instruction [1 k] without its last space; only
      <bos> if there is none.
    tokenizer, instruction, length: see text.encode.tokenize.
  """

  module: nn.Module
  tokenizer: Any
  instruction: str
  length: int

  @functools.cached_property
  def prefix(self) -> Int[np.ndarray, '1 k']:
    ids, _ = self._tokenize('a')
    return ids[:, : ids.shape[1] - self.length + 1]

  def frozen(self, params: PyTree) -> PyTree:
    """Inputs of `embed`: the parameters and the instruction's KV cache."""
    first, past = encode.encode_prefix(self.module, params, self.prefix)
    return {'params': params, 'first': first, 'past': past}

  def tokens(self, caption: str) -> dict[str, np.ndarray]:
    """Token ids and mask of one caption, after the instruction.

    Raises BadRecord in the rare case that the caption's first characters merge
    into one token with the instruction's last ones.
    """
    ids, mask = self._tokenize(caption)
    _warn_of_cut(self.tokenizer, [caption], mask, self.instruction, self.length)
    before = self.prefix.shape[1]
    if (ids[:, :before] != self.prefix).any():
      raise BadRecord(repr(caption[:40]), 'it merges with the instruction')
    return {'ids': ids[0, before:], 'ids_mask': mask[0, before:]}

  def embed(
    self, frozen: PyTree, ids: Int[Array, 'b l'], mask: Bool[Array, 'b l']
  ) -> tuple[Float[Array, 'b l+1 e'], Bool[Array, 'b l+1']]:
    """Embeddings and mask as in a cache of the captions, padded to `length`."""
    return jax.lax.stop_gradient(
      encode.embed_with_prefix(
        self.module,
        frozen['params'],
        frozen['first'],
        frozen['past'],
        ids,
        mask,
      )
    )

  def _tokenize(self, caption):
    return encode.tokenize(
      self.tokenizer,
      [caption],
      instruction=self.instruction,
      length=self.length,
    )
