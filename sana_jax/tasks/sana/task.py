"""Trains the Sana transformer by flow matching, on latents and text.

The loss is in objectives/flow_matching.py. The latents and text, cached or
encoded in the step, are in inputs.py.
"""

import functools
import math

from absl import logging
from ml_collections import ConfigDict
from PIL import Image

from sana_jax.data.shapes import KINDS
from sana_jax.errors import UserError
from sana_jax.evaluation import shapes_detector, shapes_suite
from sana_jax.inference.images import contact_sheet
from sana_jax.models.sana import Sana
from sana_jax.objectives import flow_matching
from sana_jax.objectives.base import Objective
from sana_jax.printable import counted
from sana_jax.registry import Kind
from sana_jax.sharding import tables
from sana_jax.tasks import common, init_from, lora
from sana_jax.tasks.sana import drawing, exports, inputs
from sana_jax.training.task import Exporter, Task
from sana_jax.typing import Params
from sana_jax.weights import folder as folders
from sana_jax.weights.folder import Model


def objective(config: ConfigDict) -> Objective:
  """Flow matching with config.model, on cached latents and text."""
  return _objective(config, common.build(Sana, config))


def exporter(config: ConfigDict) -> Exporter:
  """Writes a model folder, with copies of the two other models."""
  others = exports.folders_of(config)
  module = common.build(Sana, config, **exports.sizes(others))
  adapters = lora.of(config, module)
  return Exporter(
    _objective(config, module),
    functools.partial(exports.write, module, config, others)
    if adapters is None
    else functools.partial(lora.write, module, adapters),
    init_from.start(
      'transformer',
      module,
      adds=init_from.added(config),
      grow=init_from.growth(config),
      seed=config.seed,
      dtype=lora.base_dtype(config),
    ),
  )


def open_task(config: ConfigDict, workdir, mesh=None) -> Task:
  """The task with its data and, for online inputs, their encoders."""
  exported = exporter(config)
  others = exports.folders_of(config)
  check_size(config, folders.describe(others['autoencoder'], 'vae'))
  module = common.build(Sana, config, **exports.sizes(others))
  given = inputs.make(config, workdir, mesh)
  return Task(
    'sana',
    _objective(config, module, given.encode),
    inputs.data(config, given),
    exported.write,
    given.frozen,
    Samples(config, module, given).draw,
    exported.start,
  )


KIND = Kind(objective, exporter, open_task, part='transformer')


def _objective(config, module, encode=lambda frozen, batch: batch):
  adapted = lora.adapted(config, module, tables.SANA)
  return flow_matching.objective(
    module,
    config.flow,
    init=adapted.init,
    rules=adapted.rules,
    tokens=config.inputs.text_length,
    encode=encode,
    partial=adapted.partial,
    split=adapted.split,
  )


def check_size(config, autoencoder):
  """Raises UserError unless samples have the size of the training images."""
  size, side = config.data.size_px, config.model.sample_size
  if size != side * autoencoder.spec.side:
    raise UserError(
      f'config.data.size_px={size} must be config.model.sample_size={side} '
      f"times the autoencoder's compression, {autoencoder.spec.side}: change "
      'one.',
      key='data.size_px',
      value=size,
      allowed=f'{side * autoencoder.spec.side}',
    )


class Samples:
  """Pictures of held-out prompts, if there are any."""

  def __init__(self, config: ConfigDict, module: Sana, given: inputs.Inputs):
    self._config, self._module, self._given = config, module, given

  def draw(self, params: Params, step: int) -> Image.Image:
    """A grid of samples; for `shapes`, logs how many follow their prompts."""
    config = self._config
    prompts = self._prompts
    shown = [p if isinstance(p, str) else p.text for p in prompts]
    model = Model(self._module, lora.variables(config, self._module, params))
    images = drawing.draw(
      self._pipeline.replace(transformer=model),
      config,
      shown,
      range(len(prompts)),
    )
    wrong = None
    if config.data.source == 'shapes' and not config.sampling.prompts:
      wrong = [
        not shapes_suite.follows(p.requirement, shapes_detector.detect(x))
        for p, x in zip(prompts, images)
      ]
      logging.info(
        'Step %d: %d of %s.',
        step,
        wrong.count(False),
        counted(
          len(wrong), 'picture follows its prompt', 'pictures follow theirs'
        ),
      )
    return contact_sheet(list(images), shown, columns=6, wrong=wrong)

  @functools.cached_property
  def _prompts(self):
    count = self._config.sampling.images
    if given := drawing.prompts(self._config.sampling.prompts):
      return [given[i % len(given)] for i in range(count)]
    if self._config.data.source == 'shapes':
      return shapes_suite.prompts(math.ceil(count / len(KINDS)))[:count]
    return self._given.captions(count)

  @functools.cached_property
  def _pipeline(self):
    """The pipeline without a transformer, loaded for the first pictures."""
    return drawing.pipeline(self._config, Model(self._module, {}))
