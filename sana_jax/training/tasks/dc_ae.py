"""Trains a DC-AE to reconstruct images.

By default the loss is |e| + 2 e^2 + |grad e| / 2 on the error e, a weak pull of
the latents towards zero, and a little noise on them for a decoder that
forgives: all of it made here. The squared error gets training off "paint the
background"; the gradients keep edges sharp. DC-AE's own phases
(arXiv:2410.10733, section 3.3) have |e|, LPIPS and in the last one a PatchGAN,
by config.loss; what trains in which is config.trainable.
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
from sana_jax.models import patchgan
from sana_jax.models.dc_ae import DCAE
from sana_jax.models.lpips import LPIPS
from sana_jax.optim import freezing
from sana_jax.sharding import tables
from sana_jax.sharding.mesh import whole
from sana_jax.training.agreement import Records
from sana_jax.training.tasks import adversarial, common
from sana_jax.typing import Array, Keys, Params, PRNGKeyArray, PyTree
from sana_jax.weights import folder as folders
from sana_jax.weights import lpips

_STATISTICS = 2048  # Images whose latents decide the scaling factor.


class AutoencoderTask:
  """Images in, images out."""

  name = 'dc_ae'
  rules = tables.DC_AE

  def __init__(self, config: ConfigDict):
    self.module = common.build(DCAE, config)
    self.weights = config.loss
    path = config.loss.lpips_weights
    self.frozen = {'lpips': lpips.load(path)} if config.loss.lpips else {}
    dtype = self.module.dtype
    self._lpips, self._discriminator = LPIPS(dtype), patchgan.PatchGAN(dtype)
    self._data = config.data
    if config.data.size_px % self.module.compression:
      raise UserError(
        f'config.data.size_px={config.data.size_px} must be a multiple of the '
        f"autoencoder's compression, {self.module.compression}.")
    self._check(config)
    self._source = common.open_data(config.data)
    self.records = Records(len(self._source))
    self._decode = jax.jit(lambda params, x: self.module.apply(
      autoencoder(params), common.to_signed(x)))
    self._encode = jax.jit(lambda params, x: self.module.apply(
      autoencoder(params), common.to_signed(x), method='encode'))

  def _check(self, config):
    """Whether the discriminator can learn; and what the export keeps."""
    side, gan = config.data.size_px, self.weights.gan
    if gan and side < patchgan.SMALLEST_PX:
      raise UserError(
        f'config.data.size_px={side} must be {patchgan.SMALLEST_PX} or more '
        f'for the discriminator of config.loss.gan={gan}.')
    # Who was trained on an encoder's latents counts on their scale.
    self.kept_fields = ()
    if not config.trainable:
      return
    trains = freezing.split(jax.eval_shape(
      self.init, jax.random.key(0)), config.trainable)[0]
    if gan and 'discriminator' not in trains:
      raise UserError(
        f'config.trainable={config.trainable!r} leaves out the discriminator '
        f"of config.loss.gan={gan}; add 'discriminator/.*'.")
    if 'encoder' not in trains:
      self.kept_fields = 'scaling_factor',

  def init(self, rng: PRNGKeyArray) -> Params:
    side = self._data.size_px
    images = jnp.zeros((1, side, side, self.module.in_channels))
    params = self.module.init(rng, images)['params']
    if not self.weights.gan:
      return params
    return {**params, 'discriminator': self._discriminator.init(
      jax.random.fold_in(rng, 1), images)['params']}

  def loss(
    self, params: Params, frozen: PyTree, batch: PyTree, rngs: Keys
  ) -> tuple[Array, dict[str, Array]]:
    images = common.to_signed(batch['image'])
    variables = autoencoder(params)
    latents = self.module.apply(variables, images, method='encode')
    noise = self.weights.noise * jax.vmap(
      lambda rng: jax.random.normal(rng, latents.shape[1:]))(rngs)
    output = self.module.apply(
      variables, latents + noise.astype(latents.dtype), method='decode')
    output = output.astype(jnp.float32)
    error = output - images
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
    more, seen = self._judged(params, frozen, images, output)
    return loss + more, {'psnr': 10 * jnp.log10(4 / mse)} | seen

  def _judged(self, params, frozen, images, output):
    """What other networks say of the output: a loss, and terms for the log."""
    loss, seen = 0., {}
    if self.weights.lpips:
      seen['lpips'] = jnp.mean(self._lpips.apply(
        {'params': frozen['lpips']}, images, output))
      loss += self.weights.lpips * seen['lpips']
    heard = frozen.get('step', 0) >= self.weights.gan_start
    if self.weights.gan:
      both, terms = adversarial.both_players(
        self._discriminator, params['discriminator'], images, output,
        self.weights.gan * heard)
      loss, seen = loss + both, seen | terms
    return loss, seen

  def batches(self, *, seed: int, batch_size: int, rows: Sequence[int]):
    return iter(pipeline.batches(
      self._source, batch_size=batch_size, seed=seed, rows=rows,
      num_threads=self._data.threads,
      max_bad_fraction=float(self._data.max_bad_fraction),
      map_fn=lambda x, _: {'image': x['image']}))

  def pictures(self, params: Params, step: int) -> Image.Image:
    """Originals beside their reconstructions."""
    del step
    images = self._first(12)
    output = whole(self._decode(params, images)).astype(np.float32)
    output = np.uint8(np.round(np.clip(output * .5 + .5, 0, 1) * 255))
    pairs = [tile for pair in zip(images, output) for tile in pair]
    return contact_sheet(
      pairs, ['image', 'reconstruction'] * len(images), columns=6)

  def export(self, params: Params, folder) -> None:
    """folder/vae, with the scaling factor that gives latents of unit size.

    Where the encoder did not train, it is that of config.model.
    """
    module = self.module
    if 'scaling_factor' not in self.kept_fields:
      module = module.clone(scaling_factor=self._measured_factor(params))
    folders.write(pathlib.Path(folder), 'vae', module, autoencoder(params))

  def _measured_factor(self, params):
    images = self._first(_STATISTICS)
    latents = np.concatenate([
      np.asarray(self._encode(params, images[start:start + 64]))
      for start in range(0, len(images), 64)])
    return round(float(1 / np.std(latents)), 5)

  def _first(self, count):
    """The first images that can be read, up to `count`."""
    return np.stack([record['image'] for record in itertools.islice(
      common.good_records(
        self._source, float(self._data.max_bad_fraction)), count)])


def autoencoder(params):
  """The model's variables, without who is trained along."""
  return {'params': {side: params[side] for side in ('encoder', 'decoder')}}
