"""Trains a small Gemma-2 as a language model of captions.

SANA's text encoder is a decoder-only language model whose last hidden states
condition the image (arXiv:2410.10629, section 2.3). A sequence is the complex
human instruction and as many captions as fit, so that the encoder knows what
stands before a prompt.
"""

import pathlib

import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax

from sana_jax.data import pipeline, shapes
from sana_jax.errors import UserError
from sana_jax.models.gemma2 import Gemma2
from sana_jax.sharding import tables
from sana_jax.text import prompts
from sana_jax.text import tokenizer as tokenizers
from sana_jax.training.tasks import common
from sana_jax.typing import Array, Params, PRNGKeyArray, PyTree
from sana_jax.weights import folder as folders
from sana_jax.weights import gemma2 as weights
from sana_jax.weights import table


class TextEncoderTask:
  """Predicts the next token of captions behind the instruction."""

  name = 'text_encoder'
  rules = tables.GEMMA2

  def __init__(self, config: ConfigDict):
    captions = _captions(config.data)
    try:
      self.tokenizer = tokenizers.train(
        [prompts.INSTRUCTION, *shapes.words(), *captions],
        config.text.vocabulary)
    except UserError as e:
      raise UserError(f'config.text.vocabulary is too small: {e}') from e
    self.module = common.build(
      Gemma2, config, vocab_size=len(self.tokenizer))
    self.frozen = {}
    self._source = PackedCaptions(
      self.tokenizer, captions, config.text.length, config.text.examples,
      config.seed)

  def init(self, rng: PRNGKeyArray) -> Params:
    tokens = jnp.zeros((1, 2), int)
    return self.module.init(rng, tokens, tokens == 0)['params']

  def loss(
    self, params: Params, frozen: PyTree, batch: PyTree, rng: PRNGKeyArray
  ) -> tuple[Array, dict[str, Array]]:
    del frozen, rng
    tokens = batch['tokens']
    logits = self.module.apply(
      {'params': params}, tokens[:, :-1], jnp.ones_like(tokens[:, :-1], bool),
      method='logits')
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, tokens[:, 1:])
    return jnp.mean(losses), {}

  def batches(self, *, seed: int, batch_size: int, shard: tuple[int, int]):
    return iter(pipeline.batches(
      self._source, batch_size=batch_size, seed=seed, process_index=shard[0],
      process_count=shard[1]))

  def pictures(self, params: Params, step: int) -> None:
    return None

  def export(self, params: Params, folder) -> None:
    """folder/text_encoder and folder/tokenizer."""
    folder = pathlib.Path(folder)
    folders.write_part(
      folder, 'text_encoder',
      weights.transformers_config(folders.module_fields(self.module)),
      table.save(weights.RULES, params))
    self.tokenizer.save_pretrained(folder / 'tokenizer')


class PackedCaptions:
  """Sequences of `length` tokens: the instruction, then captions in turn."""

  def __init__(
    self, tokenizer, captions: list[str], length: int, examples: int, seed: int
  ):
    self._tokenizer, self._captions = tokenizer, captions
    self._length, self._examples, self._seed = length, examples, seed

  def __len__(self) -> int:
    return self._examples

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng((self._seed, index))
    picks = rng.integers(len(self._captions), size=self._length // 4)
    last_line = prompts.INSTRUCTION_LINES[-1]
    text = prompts.INSTRUCTION + f'\n{last_line}'.join(
      self._captions[i] for i in picks)
    ids = self._tokenizer.encode(text)[:self._length]
    if len(ids) < self._length:
      raise ValueError(f'The captions give less than {self._length} tokens.')
    return {'tokens': np.asarray(ids, np.int32)}


def _captions(data):
  """Every different caption; of `shapes`, all that the train split may have."""
  if data.source == 'shapes':
    return [text for kind in shapes.KINDS
            for _, texts in shapes.captions(kind, 'train') for text in texts]
  source = common.open_data(data)
  return sorted({prompts.clean(record['caption'])
                 for record in common.good_records(source)})
