"""Trains a DC-AE to reconstruct images.

The loss is in objectives/reconstruction.py. DC-AE's own phases
(arXiv:2410.10733, section 3.3) use |e|, LPIPS and in the last one a PatchGAN,
set by config.loss; the trainable part of each is set by config.trainable.
"""

import itertools
import pathlib

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from sana_jax.data import pipeline, sources
from sana_jax.errors import UserError
from sana_jax.inference.images import contact_sheet
from sana_jax.models import patchgan
from sana_jax.models.autoencoders.dc_ae import DCAE
from sana_jax.models.lpips import LPIPS
from sana_jax.objectives import reconstruction
from sana_jax.objectives.base import Objective
from sana_jax.objectives.reconstruction import autoencoder, to_signed
from sana_jax.optim import freezing
from sana_jax.printable import counted
from sana_jax.registry import Kind
from sana_jax.sharding import tables
from sana_jax.sharding.mesh import to_host
from sana_jax.tasks import common, init_from
from sana_jax.training.task import Data, Exporter, Records, Start, Task
from sana_jax.typing import Params
from sana_jax.weights import folder as folders
from sana_jax.weights import lpips

_STATISTICS = 2048  # Images used to measure the scaling factor.


def objective(config: ConfigDict) -> Objective:
  """Reconstruction with config.model. Raises UserError for an invalid size."""
  module, side = common.build(DCAE, config), config.data.size_px
  if side % module.spec.side:
    raise UserError(
      f'config.data.size_px={side} must be a multiple of the '
      f"autoencoder's compression, {module.spec.side}.",
      key='data.size_px',
      value=side,
      allowed=f'multiples of {module.spec.side}',
    )
  if config.loss.gan and side < patchgan.SMALLEST_PX:
    raise UserError(
      f'config.data.size_px={side} must be {patchgan.SMALLEST_PX} or more '
      f'for the discriminator of config.loss.gan={config.loss.gan}.',
      key='data.size_px',
      value=side,
      allowed=f'{patchgan.SMALLEST_PX} or more',
    )
  return reconstruction.objective(
    module,
    config.loss,
    rules=tables.DC_AE,
    side=side,
    lpips=LPIPS(module.dtype),
    discriminator=patchgan.PatchGAN(module.dtype),
  )


def exporter(config: ConfigDict) -> Exporter:
  """Writes folder/vae with config.model's scaling factor."""
  module = common.build(DCAE, config)
  logging.warning(
    'The scaling factor is %s, of config.model: it is measured on data '
    'when the run is finished.',
    module.scaling_factor,
  )
  return Exporter(
    objective(config),
    lambda params, to: _write(to, module, params),
    _start(config, module),
  )


def open_task(config: ConfigDict, workdir=None, mesh=None) -> Task:
  """The task with its images; UserError for an unsuitable config or source."""
  del workdir, mesh
  aim, module = objective(config), common.build(DCAE, config)
  start = _start(config, module)
  path = config.loss.lpips_weights
  frozen = {'lpips': lpips.load(path)} if config.loss.lpips else {}
  source = common.open_data(config.data)
  outputs = _Outputs(module, source, config)
  return Task(
    'dc_ae',
    aim,
    Data(_batches(source, config.data), Records(len(source))),
    outputs.export,
    frozen,
    outputs.pictures,
    start,
  )


KIND = Kind(objective, exporter, open_task, part='vae')


def _start(config, module) -> Start:
  """Start from a vae folder; its scaling factor must match a frozen encoder."""
  return init_from.start(
    'vae', module, kept=() if _encoder_trains(config) else ('scaling_factor',)
  )


def _encoder_trains(config):
  """Whether the encoder is trainable, which may change the latents' scale.

  Raises UserError if a GAN loss has a frozen discriminator.
  """
  if not config.trainable:
    return True
  trains = freezing.split(
    jax.eval_shape(objective(config).init, jax.random.key(0)), config.trainable
  )[0]
  if config.loss.gan and 'discriminator' not in trains:
    raise UserError(
      f'config.trainable={config.trainable!r} leaves out the discriminator '
      f"of config.loss.gan={config.loss.gan}; add 'discriminator/.*'.",
      key='trainable',
      value=config.trainable,
      allowed='discriminator/.*',
    )
  return 'encoder' in trains


def _batches(source, data):
  def batches(*, seed, batch_size, rows):
    return iter(
      pipeline.batches(
        source,
        batch_size=batch_size,
        seed=seed,
        rows=rows,
        num_threads=data.threads,
        read=source.at,
        max_bad_fraction=float(data.max_bad_fraction),
        map_fn=lambda x, _: {'image': x['image']},
      )
    )

  return batches


class _Outputs:
  """Pictures and exports, from the first images of the data."""

  def __init__(
    self, module: DCAE, source: sources.DescribedSource, config: ConfigDict
  ):
    self._module, self._source = module, source
    self._most_bad = float(config.data.max_bad_fraction)
    self._measures = _encoder_trains(config)
    self._decode = jax.jit(
      lambda params, x: module.apply(
        {'params': autoencoder(params)}, to_signed(x)
      )
    )
    self._encode = jax.jit(
      lambda params, x: module.apply(
        {'params': autoencoder(params)}, to_signed(x), method='encode'
      )
    )

  def pictures(self, params: Params, step: int) -> Image.Image:
    """Originals beside their reconstructions; logs how many have NaN."""
    images = self._first(12)
    output = to_host(self._decode(params, images)).astype(np.float32)
    if bad := int(np.sum(~np.isfinite(output).all((1, 2, 3)))):
      logging.warning(
        'Step %d: %s NaN or infinity.',
        step,
        counted(bad, 'reconstruction has', 'reconstructions have'),
      )
    output = np.clip(np.nan_to_num(output * 0.5 + 0.5), 0, 1)
    output = np.uint8(np.round(output * 255))
    pairs = [tile for pair in zip(images, output) for tile in pair]
    return contact_sheet(
      pairs, ['image', 'reconstruction'] * len(images), columns=6
    )

  def export(self, params: Params, folder) -> None:
    """Writes folder/vae, with the scaling factor for latents of unit variance.

    For a frozen encoder, it is that of config.model.
    """
    module = self._module
    if self._measures:
      module = module.clone(scaling_factor=self._measured_factor(params))
    _write(folder, module, params)

  def _measured_factor(self, params):
    images = self._first(_STATISTICS)
    latents = np.concatenate(
      [
        np.asarray(self._encode(params, images[start : start + 64]))
        for start in range(0, len(images), 64)
      ]
    )
    return round(float(1 / np.std(latents)), 5)

  def _first(self, count):
    """The first readable images, up to `count`."""
    return np.stack(
      [
        record['image']
        for record in itertools.islice(
          common.good_records(self._source, self._most_bad), count
        )
      ]
    )


def _write(folder, module, params):
  folders.write(
    pathlib.Path(folder), 'vae', module, {'params': autoencoder(params)}
  )
