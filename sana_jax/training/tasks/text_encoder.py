"""Trains a small Gemma-2 on captions, to be SANA's text encoder.

SANA's text encoder is a decoder-only language model whose last hidden states
condition the image (arXiv:2410.10629, section 2.3). A sequence is the complex
human instruction and as many captions as fit, so that the encoder knows what
stands before a prompt.

To predict the next token alone is a poor teacher here: with 31 words the last
states soon hold nothing but "a shape comes next", whichever colour was read.
(Captions that differ in a colour differed by 0 to 13 % in them, and SANA had
learnt 7 of 24 prompts after 128,000 images.) So each state also has to name its
own token and the seven before it, through matrices that training drops.
"""

from collections.abc import Sequence
import pathlib
import zlib

import jax
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
from sana_jax.training.agreement import Records
from sana_jax.training.tasks import common
from sana_jax.typing import Array, Keys, Params, PRNGKeyArray, PyTree
from sana_jax.weights import folder as folders

LOOK_BACK = 8  # Tokens that a state must name: its own and those before.


class TextEncoderTask:
  """Predicts the next token, and tells the last ones, of captions."""

  name = 'text_encoder'
  rules = (*((f'encoder/{path}', spec) for path, spec in tables.GEMMA2),
           ('look_back/kernel', ()))

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
    self._look_back = config.text.look_back
    # Where the captions begin; the instruction itself is not worth a loss.
    self._first = max(
      len(self.tokenizer.encode(prompts.INSTRUCTION)) - 1, LOOK_BACK)
    if config.text.length < self._first + 2:
      raise UserError(
        f'config.text.length={config.text.length} must be {self._first + 2} or '
        'more: the instruction and a caption stand in it.')
    self._source = PackedCaptions(
      self.tokenizer, captions, config.text.length, config.text.examples,
      config.seed)
    self.records = Records(
      len(captions), zlib.crc32('\n'.join(captions).encode()))

  def init(self, rng: PRNGKeyArray) -> Params:
    tokens, width = jnp.zeros((1, 2), int), self.module.width
    encoder_rng, head_rng = jax.random.split(rng)
    heads = jax.random.normal(head_rng, (LOOK_BACK, width, width))
    return {
      'encoder': self.module.init(encoder_rng, tokens, tokens == 0)['params'],
      'look_back': {'kernel': heads * width ** -0.5}}

  def loss(
    self, params: Params, frozen: PyTree, batch: PyTree, rngs: Keys
  ) -> tuple[Array, dict[str, Array]]:
    del frozen, rngs
    tokens, first = batch['tokens'], self._first
    states = self.module.apply(
      {'params': params['encoder']}, tokens[:, :-1],
      jnp.ones_like(tokens[:, :-1], bool))[:, first:]
    table = params['encoder']['embed']['embedding']
    heads = params['look_back']['kernel']

    def cross_entropy(states, offset):
      """Of the tokens `offset` places after the states (before: negative)."""
      start = first + offset
      wanted = tokens[:, start:start + states.shape[1]]
      return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(
        states.astype(jnp.float32) @ table.T, wanted))

    following = cross_entropy(states, 1)
    looked_back = [cross_entropy(states @ heads[k], -k)
                   for k in range(LOOK_BACK)]
    return following + self._look_back * sum(looked_back), {
      'next_token': following, 'own_token': looked_back[0],
      'earliest_token': looked_back[-1]}

  def batches(self, *, seed: int, batch_size: int, rows: Sequence[int]):
    return iter(pipeline.batches(
      self._source, batch_size=batch_size, seed=seed, rows=rows))

  def pictures(self, params: Params, step: int) -> None:
    return None

  def export(self, params: Params, folder) -> None:
    """folder/text_encoder and folder/tokenizer."""
    folder = pathlib.Path(folder)
    folders.write(folder, 'text_encoder', self.module,
                  {'params': params['encoder']})
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
                 for record in common.good_records(
                   source, float(data.max_bad_fraction))})
