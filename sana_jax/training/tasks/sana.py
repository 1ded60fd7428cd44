"""Trains the Sana transformer by flow matching, on latents and text.

Where these come from, and whether frozen models make them in the step, is in
training/inputs.py.
"""

from collections.abc import Sequence
import functools
import math

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image

from sana_jax.data.shapes import KINDS
from sana_jax.diffusion import flow
from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.errors import UserError
from sana_jax.evaluation import shapes_detector, shapes_suite
from sana_jax.inference.images import contact_sheet
from sana_jax.inference.pipeline import Pipeline
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.sharding import tables
from sana_jax.training import agreement, encoders, inputs
from sana_jax.training.levels import by_level
from sana_jax.training.state import Metrics
from sana_jax.training.tasks import common, exports
from sana_jax.typing import Array, Keys, Params, PRNGKeyArray, PyTree
from sana_jax.weights import folder as folders
from sana_jax.weights.folder import Model


def _check_size(config, compression):
  """Raises UserError unless samples have the size of the training images."""
  size, side = config.data.size_px, config.model.sample_size
  if size != side * compression:
    raise UserError(
      f'config.data.size_px={size} must be config.model.sample_size={side} '
      f"times the autoencoder's compression, {compression}: change one.")


def flow_loss(
  module: Sana, settings: ConfigDict, params: Params, frozen: PyTree,
  batch: PyTree, rngs: Keys,
) -> tuple[Array, Metrics]:
  """Squared error of the velocity at random times, in float32.

  Args:
    settings: config.flow.
    frozen: null_text [1 m e] and null_mask [1 m], for dropped captions.
    batch: latents [b y x c], text [b m e] and mask [b m].
    rngs: [b], one for each image's noise, time and dropped caption.
  """
  x0 = batch['latents'].astype(jnp.float32)
  noise, times, drop = jax.vmap(functools.partial(
    _draw, settings, x0.shape[1:]))(rngs)
  # Dropped captions bring the empty prompt's own mask, as diffusers' sampling
  # does; the official code keeps the caption's.
  text = jnp.where(drop[:, None, None], frozen['null_text'], batch['text'])
  mask = jnp.where(drop[:, None], frozen['null_mask'], batch['mask'])
  denoiser = Denoiser(module)
  prediction = denoiser(
    params, denoiser.path.interpolate(x0, noise, times.t), times.t,
    Condition(text, mask), timestep=times.timestep)
  error = prediction.velocity() - denoiser.path.target(x0, noise, times.t)
  of_each = jnp.mean(error ** 2, axis=(1, 2, 3))
  return jnp.mean(error ** 2), {'loss_by_noise': by_level(of_each, times.t)}


def _draw(settings, shape, rng):
  """An image's noise, time, and whether its caption is dropped."""
  noise_rng, time_rng, drop_rng = jax.random.split(rng, 3)
  times = flow.sample_times(
    time_rng, 1, density=settings.density, mean=settings.mean,
    std=settings.std, shift=settings.shift)
  return (jax.random.normal(noise_rng, shape),
          jax.tree.map(lambda t: t[0], times),
          jax.random.bernoulli(drop_rng, settings.caption_dropout))


class SanaTask:
  """Velocity of noisy latents, given their captions."""

  name = 'sana'
  rules = tables.SANA

  def __init__(self, config: ConfigDict, workdir, mesh: Mesh | None = None):
    self.config = config
    self._folders = exports.folders_of(config)
    autoencoder = folders.describe(self._folders['autoencoder'], 'vae')
    text_encoder = folders.describe(
      self._folders['text_encoder'], 'text_encoder')
    _check_size(config, autoencoder.spec.side)
    channels = autoencoder.spec.channels
    self.module = common.build(
      Sana, config, in_channels=channels, out_channels=channels,
      caption_channels=text_encoder.width)
    self._inputs = inputs.make(config, workdir, mesh)
    self.frozen = self._inputs.frozen
    self.records = agreement.of_buckets(self._inputs.members)

  def init(self, rng: PRNGKeyArray) -> Params:
    return abstract.transformer_init(self.module)(rng)

  def loss(
    self, params: Params, frozen: PyTree, batch: PyTree, rngs: Keys
  ) -> tuple[Array, Metrics]:
    return flow_loss(
      self.module, self.config.flow, params, frozen,
      self._inputs.encode(frozen, batch), rngs)

  def batches(self, *, seed: int, batch_size: int, rows: Sequence[int]):
    data = self.config.data
    return self._inputs.batches(
      seed=seed, batch_size=batch_size, rows=rows, threads=data.threads,
      max_bad_fraction=float(data.max_bad_fraction))

  def pictures(self, params: Params, step: int) -> Image.Image:
    """Samples of prompts that are not trained on, where there are such."""
    settings = self.config.sampling
    prompts = self._prompts
    shown = [p if isinstance(p, str) else p.text for p in prompts]
    images = self._pipeline_with(params)(
      shown, steps=settings.steps, guidance_scale=settings.guidance_scale,
      seed=range(len(prompts)),
      instruction=encoders.instruction_of(self.config))
    wrong = None
    if self.config.data.source == 'shapes':
      wrong = [
        not shapes_suite.follows(p.requirement, shapes_detector.detect(x))
        for p, x in zip(prompts, images)]
      logging.info('Step %d: %d of %d pictures follow their prompts.', step,
                   wrong.count(False), len(wrong))
    return contact_sheet(list(images), shown, columns=6, wrong=wrong)

  @functools.cached_property
  def _prompts(self):
    count = self.config.sampling.images
    if self.config.data.source == 'shapes':
      return shapes_suite.prompts(math.ceil(count / len(KINDS)))[:count]
    return self._inputs.captions(count)

  @functools.cached_property
  def _pipeline(self):
    """Without a transformer; loaded for the first pictures."""
    config = self.config
    return Pipeline(
      Model(self.module, {}), encoders.load_autoencoder(config, only='decoder'),
      encoders.load_text_encoder(config), encoders.load_tokenizer(config),
      sampler=config.sampling.sampler, flow_shift=config.sampling.shift)

  def _pipeline_with(self, params):
    model = Model(self.module, {'params': params})
    return self._pipeline.replace(transformer=model)

  def export(self, params: Params, folder) -> None:
    """A whole model folder: the transformer and copies of the other two."""
    exports.write_sana(
      self.module, self.config, self._folders, params, folder)
