"""Tunes adapters on pairs of pictures, by Diffusion-DPO.

The loss is in objectives/preference.py, the pairs in data/pairs.py; latents and
text are cached or encoded in the step, as those of the task `sana`.
"""

from collections.abc import Sequence
import functools
from typing import Any

import grain
from ml_collections import ConfigDict
import numpy as np

from sana_jax.data import pairs, pipeline
from sana_jax.data.order import Bucketed
from sana_jax.errors import UserError
from sana_jax.models.sana import Sana
from sana_jax.objectives import preference
from sana_jax.objectives.base import Objective
from sana_jax.registry import Kind
from sana_jax.sharding import tables
from sana_jax.tasks import common, init_from, lora
from sana_jax.tasks.sana import exports, inputs
from sana_jax.tasks.sana.task import check_size, Samples
from sana_jax.training import dataset_check
from sana_jax.training.task import Data, Exporter, Task
from sana_jax.typing import Array, PyTree
from sana_jax.weights import folder as folders


def objective(config: ConfigDict) -> Objective:
  """DPO of config.model with adapters, on cached latents and text."""
  return _objective(config, common.build(Sana, config))


def exporter(config: ConfigDict) -> Exporter:
  """Writes the adapters as a file for diffusers."""
  module = common.build(
    Sana, config, **exports.sizes(exports.folders_of(config))
  )
  return _exporter(config, module)


def open_task(config: ConfigDict, workdir, mesh=None) -> Task:
  """The task with its pairs and, for online inputs, their encoders."""
  others = exports.folders_of(config)
  module = common.build(Sana, config, **exports.sizes(others))
  exported = _exporter(config, module)
  check(config)
  check_size(config, folders.describe(others['autoencoder'], 'vae'))
  given = inputs.make(config, workdir, mesh)
  return Task(
    'dpo',
    _objective(config, module, functools.partial(encode, given)),
    data(config, given),
    exported.write,
    given.frozen,
    Samples(config, module, given).draw,
    exported.start,
  )


KIND = Kind(objective, exporter, open_task, part='transformer')


def check(config: ConfigDict) -> None:
  """Raises UserError for data that are not pairs, or that lose halves."""
  if config.data.source != 'pairs':
    raise UserError(
      f"config.data.source={config.data.source!r} must be 'pairs' for the task "
      'dpo: a folder with lines of metadata.jsonl like '
      f'{pairs.FORM}.',
      key='data.source',
      value=config.data.source,
      allowed=('pairs',),
    )
  for key in ('min_size_px', 'max_aspect_ratio', 'min_score'):
    if value := config.data[key]:
      raise UserError(
        f'config.data.{key}={value} must be 0 for pairs, of which it could '
        'drop one image.',
        key=f'data.{key}',
        value=value,
        allowed=(0,),
      )


def data(config: ConfigDict, given: inputs.Inputs) -> Data:
  """Batches of pairs, of which batch_size is the number."""
  members = pairs.pairs_of(given.members)
  if not any(len(found) for found in members):
    raise UserError(
      f'{config.data.path} has no pair of two images in one size; set '
      'config.inputs.aspect_ratios to false, which crops them to squares.',
      key='data.path',
      value=config.data.path,
    )
  return Data(
    functools.partial(_batches, config, given, members),
    dataset_check.records_of(members),
  )


def _batches(
  config: ConfigDict,
  given: inputs.Inputs,
  members: Sequence[np.ndarray],
  *,
  seed: int,
  batch_size: int,
  rows: Sequence[int],
) -> grain.DatasetIterator:
  def read(index, draw) -> list[dict[str, Any]]:
    return [given.source.at(2 * index + place, draw) for place in (0, 1)]

  def joined(records, bucket):
    both = [given.example(record, bucket) for record in records]
    stacked = {
      key: np.stack([record[key] for record in both])
      for key in ('latents', 'image')
      if key in both[0]
    }
    return both[preference.CHOSEN] | stacked  # The caption is the same.

  return iter(
    pipeline.batches(
      given.source,
      batch_size=batch_size,
      seed=seed,
      rows=rows,
      order=Bucketed(members, batch_size, seed),
      read=read,
      map_fn=joined,
      num_threads=config.data.threads,
      max_bad_fraction=float(config.data.max_bad_fraction),
    )
  )


def encode(
  given: inputs.Inputs, frozen: PyTree, batch: PyTree
) -> dict[str, Array]:
  """'latents' [b 2 *p c], 'text' and 'mask' of a batch of pairs."""
  if 'image' not in batch:
    return given.encode(frozen, batch)
  images = batch['image']
  flat = given.encode(
    frozen, batch | {'image': images.reshape(-1, *images.shape[2:])}
  )
  latents = flat['latents']
  return flat | {'latents': latents.reshape(-1, 2, *latents.shape[1:])}


def _objective(config, module, encode=lambda frozen, batch: batch):
  adapted = lora.adapted(config, module, tables.SANA)
  return preference.objective(
    module,
    config.flow,
    config.dpo.beta,
    init=adapted.init,
    rules=adapted.rules,
    tokens=config.inputs.text_length,
    partial=adapted.partial,
    split=adapted.split,
    encode=encode,
  )


def _exporter(config, module):
  return lora_exporter(config, module, _objective(config, module))


def lora_exporter(
  config: ConfigDict, module: Sana, objective: Objective
) -> Exporter:
  """Writer of adapters, whose base is the model of config.init_from."""
  if not config.init_from:
    raise UserError(
      f"config.init_from is '' and must be a model for the task {config.task}, "
      'which tunes adapters of it.',
      key='init_from',
      value='',
      allowed='models',
    )
  return Exporter(
    objective,
    functools.partial(lora.write, module, lora.of(config, module)),
    init_from.start('transformer', module, dtype=lora.base_dtype(config)),
  )
