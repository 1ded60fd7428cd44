"""Trains a small Gemma-2 on captions, as SANA's text encoder.

SANA's text encoder is a decoder-only language model whose last hidden states
condition the image (arXiv:2410.10629, section 2.3). A sequence is the complex
human instruction and as many captions as fit, so that the encoder is trained
with the prefix of its prompts. The loss is in objectives/language_model.py.
"""

from collections.abc import Sequence
import pathlib
from typing import Any
import zlib

from ml_collections import ConfigDict
import numpy as np

from sana_jax.data import pipeline, shapes
from sana_jax.errors import UserError
from sana_jax.models.gemma2 import Gemma2
from sana_jax.objectives import language_model
from sana_jax.objectives.base import Objective
from sana_jax.objectives.language_model import LOOK_BACK
from sana_jax.registry import Kind
from sana_jax.sharding import tables
from sana_jax.tasks import common, init_from
from sana_jax.text import prompts
from sana_jax.text import tokenizer as tokenizers
from sana_jax.training.task import Data, Exporter, Records, Start, Task
from sana_jax.typing import Params
from sana_jax.weights import folder as folders


def objective(config: ConfigDict) -> Objective:
  """Language modelling with config.model and config.text.vocabulary.

  Captions in files, which may need fewer tokens, are not read.
  """
  of_shapes = config.data.source == 'shapes'
  tokenizer = _learned(config, _captions(config.data) if of_shapes else [])
  size = len(tokenizer) if of_shapes else config.text.vocabulary
  return _objective(config, _module(config, size), tokenizer)


def exporter(config: ConfigDict) -> Exporter:
  """Writes the encoder and its tokenizer, learned again from the captions."""
  tokenizer = _learned(config, _captions(config.data))
  module = _module(config, len(tokenizer))
  return Exporter(
    _objective(config, module, tokenizer),
    _writer(module, tokenizer),
    _start(module, tokenizer),
  )


def open_task(config: ConfigDict, workdir=None, mesh=None) -> Task:
  """The task with its captions; UserError for an unsuitable config."""
  del workdir, mesh
  captions = _captions(config.data)
  tokenizer = _learned(config, captions)
  module = _module(config, len(tokenizer))
  source = PackedCaptions(
    tokenizer, captions, config.text.length, config.text.examples, config.seed
  )

  def batches(*, seed, batch_size, rows):
    return iter(
      pipeline.batches(source, batch_size=batch_size, seed=seed, rows=rows)
    )

  return Task(
    'text_encoder',
    _objective(config, module, tokenizer),
    Data(
      batches, Records(len(captions), zlib.crc32('\n'.join(captions).encode()))
    ),
    _writer(module, tokenizer),
    start=_start(module, tokenizer),
  )


KIND = Kind(objective, exporter, open_task, part='text_encoder')


def _learned(config, captions):
  """The tokenizer of these captions and of the instruction."""
  try:
    return tokenizers.train(
      [prompts.INSTRUCTION, *shapes.words(), *captions], config.text.vocabulary
    )
  except UserError as e:
    raise UserError(
      f'config.text.vocabulary is too small: {e}', key='text.vocabulary'
    ) from e


def _module(config, size):
  return common.build(Gemma2, config, vocab_size=size)


def _objective(config, module, tokenizer):
  # The first caption token; the instruction has no loss.
  first = max(len(tokenizer.encode(prompts.INSTRUCTION)) - 1, LOOK_BACK)
  if config.text.length < first + 2:
    raise UserError(
      f'config.text.length={config.text.length} must be {first + 2} or '
      'more: it holds the instruction and a caption.',
      key='text.length',
      value=config.text.length,
    )
  return language_model.objective(
    module,
    rules=tables.GEMMA2,
    length=config.text.length,
    first=first,
    weight=config.text.look_back,
  )


def _start(module, tokenizer) -> Start:
  def vocabularies(folder: pathlib.Path) -> list[str]:
    vocabulary = tokenizers.load(folder / 'tokenizer').get_vocab()
    if vocabulary == tokenizer.get_vocab():
      return []
    return ['its tokenizer has other tokens, learned from other captions']

  return init_from.start(
    'text_encoder', module, under='encoder', more=vocabularies
  )


def _writer(module, tokenizer):
  def write(params: Params, folder: Any) -> None:
    """Writes folder/text_encoder and folder/tokenizer."""
    folder = pathlib.Path(folder)
    folders.write(folder, 'text_encoder', module, {'params': params['encoder']})
    tokenizer.save_pretrained(folder / 'tokenizer')

  return write


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
      self._captions[i] for i in picks
    )
    ids = self._tokenizer.encode(text)[: self._length]
    if len(ids) < self._length:
      raise ValueError(f'The captions give less than {self._length} tokens.')
    return {'tokens': np.asarray(ids, np.int32)}


def _captions(data) -> Sequence[str]:
  """All distinct captions; for `shapes`, all that the train split can have."""
  if data.source == 'shapes':
    return [
      text
      for kind in shapes.KINDS
      for _, texts in shapes.captions(kind, 'train')
      for text in texts
    ]
  source = common.open_data(data)
  return sorted(
    {
      prompts.clean(record['caption'])
      for record in common.good_records(source, float(data.max_bad_fraction))
    }
  )
