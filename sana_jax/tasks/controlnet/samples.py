"""Pictures of a run: each after the control image that it follows."""

import functools
import itertools

from absl import logging
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from sana_jax.data.shapes import scenes
from sana_jax.evaluation import shapes_control, shapes_detector, shapes_suite
from sana_jax.files import parse_json
from sana_jax.inference.images import contact_sheet
from sana_jax.inference.pipeline import Pipeline
from sana_jax.models.controlled import ControlledSana
from sana_jax.models.controlnet import with_embeddings
from sana_jax.tasks.controlnet import inputs
from sana_jax.tasks.sana import encoders
from sana_jax.typing import Params
from sana_jax.weights.folder import Model


class Samples:
  """Pictures of the first records; of held-out scenes, for `shapes`."""

  def __init__(self, config: ConfigDict, module: ControlledSana, base: Params):
    self._config, self._module, self._base = config, module, base

  def draw(self, params: Params, step: int) -> Image.Image:
    """A grid of samples; for `shapes`, logs how well they follow control."""
    config, settings = self._config, self._config.sampling
    records = self._records
    net = Model(
      self._module.nets[0], {'params': with_embeddings(params, self._base)}
    )
    prompts = [record['caption'] for record in records]
    images = self._pipeline.replace(controlnets=(net,))(
      prompts,
      control_image=[record['image'] for record in records],
      steps=settings.steps,
      guidance_scale=settings.guidance_scale,
      seed=range(len(records)),
      instruction=encoders.instruction_of(config),
      use_resolution_binning=False,
      output_type='uint8',
    ).images
    if config.data.source == 'shapes':
      _log(records, images, step)
    pairs = ([record['image'], x] for record, x in zip(records, images))
    texts = ([prompt, ''] for prompt in prompts)
    return contact_sheet(
      list(itertools.chain(*pairs)), list(itertools.chain(*texts)), columns=6
    )

  @functools.cached_property
  def _records(self):
    config = self._config
    source = inputs.images(config, heldout=config.data.source == 'shapes')
    count = min(config.sampling.images, len(source))
    return [source[i] for i in range(count)]

  @functools.cached_property
  def _pipeline(self):
    """The pipeline without a net, loaded for the first pictures."""
    config = self._config
    return Pipeline(
      Model(self._module.base, {'params': self._base}),
      encoders.load_autoencoder(config, only=''),
      encoders.load_text_encoder(config),
      encoders.load_tokenizer(config),
      sampler=config.sampling.sampler,
      flow_shift=config.sampling.shift,
    )


def _log(records, images, step):
  of = [scenes.from_json(parse_json(record['scene'])) for record in records]
  logging.info(
    'Step %d: overlap with the control %.3f, prompts followed %.3f.',
    step,
    np.mean([shapes_control.overlap(s, x) for s, x in zip(of, images)]),
    np.mean(
      [
        shapes_suite.follows(s.requirement, shapes_detector.detect(x))
        for s, x in zip(of, images)
      ]
    ),
  )
