"""Inputs of a ControlNet's training: those of task `sana`, and control latents.

Control images go through the same frozen autoencoder as the images. Their
latents are `cached` in the workdir, a cache of its own so that one of the
images serves any annotator, or made `online` in the step.
"""

import dataclasses
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax.data.cache import CachedSource
from sana_jax.data.captions import CaptionRule
from sana_jax.data.control_images import ControlImages
from sana_jax.data.sources import Source
from sana_jax.models.controlled import Hint
from sana_jax.tasks import common
from sana_jax.tasks.sana import caching, encoders, inputs
from sana_jax.training.workdir import resolve
from sana_jax.typing import Array, PyTree


@dataclasses.dataclass(frozen=True)
class ControlledInputs(inputs.Inputs):
  """Inputs whose batches also have the hints of one net.

  Attributes:
    control_encoder: encodes control images in the step, if their latents are
      not cached.
  """

  control_encoder: nn.Module | None = None

  def example(self, record: dict[str, Any], bucket: int) -> dict[str, Any]:
    """A row of a batch, with its control."""
    return super().example(record, bucket) | {'control': record['control']}

  def encode(self, frozen: PyTree, batch: PyTree) -> dict[str, Array]:
    """'latents', 'text', 'mask' and 'control', a tuple of one Hint."""
    latents = batch['control']
    if self.control_encoder is not None:
      latents = jax.lax.stop_gradient(
        encoders.encode_images(
          self.control_encoder, frozen['autoencoder'], latents
        )
      )
    return super().encode(frozen, batch) | {'control': (hint(latents),)}


def hint(latents: Array) -> Hint:
  """Hint of full scale at all times."""
  return Hint(latents.astype(jnp.float32), jnp.ones(len(latents)))


def make(
  config: ConfigDict, workdir: os.PathLike | str, mesh: Mesh | None = None
) -> ControlledInputs:
  """Opens the inputs of config.inputs with control; makes caches if needed."""
  given = inputs.make(config, workdir, mesh)
  fields = {f.name: getattr(given, f.name) for f in dataclasses.fields(given)}
  frozen, encoder = given.frozen, None
  if config.controlnet.latents == 'cached':
    control = _open_cache(config, workdir)
  else:
    control = images(config)
    encoder, variables = encoders.load_autoencoder(config, mesh)
    frozen = frozen | {'autoencoder': variables}
  fields |= {'source': _Joined(given.source, control), 'frozen': frozen}
  return ControlledInputs(**fields, control_encoder=encoder)


def images(config: ConfigDict, heldout: bool = False) -> ControlImages:
  """The control images of a config's data, in the sizes of their buckets.

  `heldout` is for `shapes`: the other split, of the same layout.
  """
  if heldout:
    split = config.data.split.replace('train', 'heldout')
    data = common.open_data(config.data, split)
  else:
    data = common.open_inputs(config)
  multiple = encoders.compression(config)
  return ControlImages(
    data,
    common.bucket_sizes(config, multiple),
    common.bucket_of_records(config, data, multiple),
    config.controlnet.annotator,
    config.controlnet.path,
  )


class _Joined:
  """Records of a source with the control latents, or images, of another."""

  def __init__(self, source: Source, control: Source):
    self._source, self._control = source, control

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.at(index, 0)

  def at(self, index: int, draw: int) -> dict[str, Any]:
    control = self._control[index]
    return {
      **self._source.at(index, draw),
      'control': control['latents' if 'latents' in control else 'image'],
    }


def _open_cache(config, workdir):
  """The run's cache of control latents, made if needed."""
  path = os.fspath(resolve(workdir) / 'encoded_control')
  about = {key: config.controlnet[key] for key in ('annotator', 'path')}
  caching.make(_latents_only(config), path, source=images, about=about)
  return CachedSource(path, CaptionRule('first'), want=('latents',))


def _latents_only(config):
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.inputs.update(latents='cached', text='online')
  return config
