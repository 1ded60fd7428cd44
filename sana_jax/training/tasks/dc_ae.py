"""Trains a DC-AE to reconstruct images.

The loss is |e| + 2 e^2 + |grad e| / 2 on the error e, a weak pull of the
latents towards zero, and a little noise on them for a decoder that forgives.
The squared error gets training off "paint the background"; the gradients keep
edges sharp. (DC-AE's own phases use LPIPS and a GAN, which need a network that
cannot be trained here.)
"""

from collections.abc import Sequence
import itertools
import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from sana_jax.data import pipeline
from sana_jax.errors import UserError
from sana_jax.inference.images import contact_sheet
from sana_jax.models.dc_ae import DCAE
from sana_jax.sharding import tables
from sana_jax.training.tasks import common
from sana_jax.typing import Array, Keys, Params, PRNGKeyArray, PyTree
from sana_jax.weights import folder as folders

_STATISTICS = 2048  # Images whose latents decide the scaling factor.


class AutoencoderTask:
  """Images in, images out."""

  name = 'dc_ae'
  rules = tables.DC_AE

  def __init__(self, config: ConfigDict):
    self.module = common.build(DCAE, config)
    self.weights = config.loss
    self.frozen = {}
    self._data = config.data
    if config.data.size_px % self.module.compression:
      raise UserError(
        f'config.data.size_px={config.data.size_px} must be a multiple of the '
        f"autoencoder's compression, {self.module.compression}.")
    self._source = common.open_data(config.data)
    self._decode = jax.jit(lambda params, x: self.module.apply(
      {'params': params}, common.to_signed(x)))
    self._encode = jax.jit(lambda params, x: self.module.apply(
      {'params': params}, common.to_signed(x), method='encode'))

  def init(self, rng: PRNGKeyArray) -> Params:
    side = self._data.size_px
    channels = self.module.in_channels
    return self.module.init(rng, jnp.zeros((1, side, side, channels)))['params']

  def loss(
    self, params: Params, frozen: PyTree, batch: PyTree, rngs: Keys
  ) -> tuple[Array, dict[str, Array]]:
    del frozen
    variables, images = {'params': params}, common.to_signed(batch['image'])
    latents = self.module.apply(variables, images, method='encode')
    noise = self.weights.noise * jax.vmap(
      lambda rng: jax.random.normal(rng, latents.shape[1:]))(rngs)
    output = self.module.apply(
      variables, latents + noise.astype(latents.dtype), method='decode')
    error = output.astype(jnp.float32) - images
    mse = jnp.mean(error ** 2)
    gradient = sum(
      jnp.mean(jnp.abs(jnp.diff(error, axis=axis))) for axis in (1, 2))
    latents = latents.astype(jnp.float32)
    centre = jnp.mean(jnp.mean(latents, axis=(0, 1, 2)) ** 2)
    loss = (self.weights.l1 * jnp.mean(jnp.abs(error))
            + self.weights.mse * mse + self.weights.gradient * gradient
            + self.weights.latent_l2 * jnp.mean(latents ** 2)
            + self.weights.latent_mean * centre)
    # Images span [-1, 1], a range of 2.
    return loss, {'psnr': 10 * jnp.log10(4 / mse)}

  def batches(self, *, seed: int, batch_size: int, rows: Sequence[int]):
    return iter(pipeline.batches(
      self._source, batch_size=batch_size, seed=seed, rows=rows,
      num_threads=self._data.threads,
      map_fn=lambda x, _: {'image': x['image']}))

  def pictures(self, params: Params, step: int) -> Image.Image:
    """Originals beside their reconstructions."""
    del step
    images = self._first(12)
    output = np.asarray(self._decode(params, images), np.float32)
    output = np.uint8(np.round(np.clip(output * .5 + .5, 0, 1) * 255))
    pairs = [tile for pair in zip(images, output) for tile in pair]
    return contact_sheet(
      pairs, ['image', 'reconstruction'] * len(images), columns=6)

  def export(self, params: Params, folder) -> None:
    """folder/vae, with the scaling factor that gives latents of unit size."""
    images = self._first(_STATISTICS)
    latents = np.concatenate([
      np.asarray(self._encode(params, images[start:start + 64]))
      for start in range(0, len(images), 64)])
    module = self.module.clone(
      scaling_factor=round(float(1 / np.std(latents)), 5))
    folders.write(pathlib.Path(folder), 'vae', module, {'params': params})

  def _first(self, count):
    """The first images that can be read, up to `count`."""
    return np.stack([record['image'] for record in itertools.islice(
      common.good_records(self._source), count)])
