"""Inputs of the transformer: latents and text, cached or encoded in the step.

Each of the two is `cached` (read, see data/cache.py) or `online` (images and
token ids are transferred to the devices, and frozen models encode them inside
the step). All four combinations give the same batches up to rounding, since
order, captions and encoders are the same.
"""

from collections.abc import Sequence
import dataclasses
import functools
import itertools
import os
from typing import Any

from absl import logging
import flax.linen as nn
import grain
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from sana_jax.data import buckets, cache, files, pipeline
from sana_jax.data.cache import CachedSource
from sana_jax.data.order import Bucketed
from sana_jax.data.records import BadRecord, MAX_BAD_FRACTION
from sana_jax.data.sources import DescribedSource, DrawnSource
from sana_jax.tasks import common
from sana_jax.tasks.sana import caching, encoders, fingerprints
from sana_jax.text import encode
from sana_jax.training import dataset_check
from sana_jax.training.task import Data
from sana_jax.training.workdir import all_gather, barrier, resolve, writing
from sana_jax.typing import Array, Int, PyTree


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Batches on the host, and their encoders in the step.

  Attributes:
    source: source of records with the needed ones of 'latents', 'image', 'text'
      with 'mask', and 'caption'.
    members: records of each bucket.
    sizes: (height, width) of each bucket.
    autoencoder: encodes images in the step, if latents are not cached.
    text: embeds captions in the step, if text is not cached.
    frozen: `null_text` [m e], `null_mask` [m], and parameters of these two.
  """

  source: DrawnSource
  members: Sequence[Int[np.ndarray, '_']]
  sizes: Sequence[tuple[int, int]]
  autoencoder: nn.Module | None
  text: encoders.OnlineText | None
  frozen: PyTree

  def batches(
    self,
    *,
    seed: int,
    batch_size: int,
    rows: Sequence[int],
    threads: int,
    max_bad_fraction: float = MAX_BAD_FRACTION,
  ) -> grain.DatasetIterator:
    """These rows of each batch; see training.task.Data."""
    return iter(
      pipeline.batches(
        self.source,
        batch_size=batch_size,
        seed=seed,
        rows=rows,
        order=Bucketed(self.members, batch_size, seed),
        read=self.source.at,
        map_fn=self._example,
        num_threads=threads,
        max_bad_fraction=max_bad_fraction,
      )
    )

  def _example(self, record, bucket):
    out = {
      key: record[key] for key in ('latents', 'text', 'mask') if key in record
    }
    if self.autoencoder is not None:
      out['image'] = buckets.fit(record['image'], self.sizes[bucket])
    if self.text is not None:
      out |= self.text.tokens(record['caption'])
    return out

  def encode(self, frozen: PyTree, batch: PyTree) -> dict[str, Array]:
    """'latents', 'text' and 'mask' of a batch; pure, without gradients."""
    out = {
      key: batch[key] for key in ('latents', 'text', 'mask') if key in batch
    }
    if self.autoencoder is not None:
      out['latents'] = jax.lax.stop_gradient(
        encoders.encode_images(
          self.autoencoder, frozen['autoencoder'], batch['image']
        )
      )
    if self.text is not None:
      out['text'], out['mask'] = self.text.embed(
        frozen['text_encoder'], batch['ids'], batch['ids_mask']
      )
    return out

  def captions(self, count: int) -> list[str]:
    """Up to `count` distinct captions of the first records."""
    found = {}
    for index in range(min(4 * count, len(self.source))):
      try:
        found[self.source[index]['caption']] = None
      except BadRecord:
        continue
    return list(found)[:count]


def data(config: ConfigDict, given: Inputs) -> Data:
  """The batches of a task with these inputs, and their records."""
  return Data(
    functools.partial(
      given.batches,
      threads=config.data.threads,
      max_bad_fraction=float(config.data.max_bad_fraction),
    ),
    dataset_check.records_of(given.members),
  )


def make(
  config: ConfigDict, workdir: os.PathLike | str, mesh: Mesh | None = None
) -> Inputs:
  """Opens the inputs of config.inputs, and makes its cache if needed.

  Args:
    workdir: folder of the cache if config.inputs.cache names none.
    mesh: online encoders are sharded over it; replicated without.

  Raises UserError.
  """
  settings = config.inputs
  cached = data = None
  if 'cached' in (settings.latents, settings.text):
    cached = _open_cache(config, workdir)
  if settings.latents == 'online':
    data = common.open_inputs(config)
  autoencoder, frozen = _images(config, mesh)
  text, more = _text(config, cached, mesh)
  multiple = encoders.compression(config)
  source = _Joined(cached, data) if cached and data else cached or data
  return Inputs(
    source,
    _members(config, cached, data, multiple),
    common.bucket_sizes(config, multiple),
    autoencoder,
    text,
    frozen | more,
  )


class _Joined:
  """Captions and text of a cache with the images that it was made of."""

  def __init__(self, cached: CachedSource, data: DescribedSource):
    self._cached, self._data = cached, data

  def __len__(self) -> int:
    return len(self._cached)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.at(index, 0)

  def at(self, index: int, draw: int) -> dict[str, Any]:
    return {**self._cached.at(index, draw), 'image': self._data[index]['image']}


def _open_cache(config, workdir) -> CachedSource:
  """The cache that the config names, or the run's own, made if needed."""
  path = config.inputs.cache
  if path:
    fingerprints.compare_given(path, config)
  else:
    path = os.fspath(resolve(workdir) / 'encoded')
    _set_aside_if_other(path, config)
    caching.make(config, path)
  return CachedSource(
    path,
    common.caption_rule(config.data),
    want=[
      name for name in ('latents', 'text') if config.inputs[name] == 'cached'
    ],
  )


def _set_aside_if_other(path, config):
  """Sets the run's own cache aside if it is of other data or models."""
  # One process decides for all.
  if all_gather([jax.process_index() == 0 and _is_other(path, config)])[0, 0]:
    if jax.process_index() == 0:
      with writing(path):
        _set_aside(path)
    barrier('the other cache is set aside')


def _is_other(path, config):
  """Whether the cache is of other data or models; raises if unreadable."""
  if not files.exists(f'{path}/{cache.ABOUT}'):
    return False
  there, current = fingerprints.read(path), fingerprints.of(config)
  try:
    fingerprints.compare(path, there, current)
  except fingerprints.OtherCache as error:
    logging.warning('The cache is made again: %s', error)
    return True
  return False


def _set_aside(path):
  """Renames a local folder, as it took hours to make; removes remote ones."""
  if files.is_remote(path):
    files.remove(path)
    return
  aside = next(
    name
    for i in itertools.count(1)
    if not os.path.exists(name := f'{path}.{i}')
  )
  os.rename(path, aside)
  logging.warning(
    'The old cache is now %s; remove it if it is not needed.', aside
  )


def _images(config, mesh):
  """The autoencoder for the step, and its frozen inputs."""
  if config.inputs.latents == 'cached':
    return None, {}
  module, variables = encoders.load_autoencoder(config, mesh)
  return module, {'autoencoder': variables}


def _text(config, cached, mesh):
  """The text encoder for the step, and its frozen inputs with the null text."""
  length = config.inputs.text_length
  if config.inputs.text == 'cached':
    cached.pad_to(encoders.usual_length(cached.longest_text, length))
    text, mask = cached.null_text()
    return None, {'null_text': text, 'null_mask': mask}
  model = encoders.load_text_encoder(config, mesh)
  params, tokenizer = model.variables['params'], encoders.load_tokenizer(config)
  online = encoders.OnlineText(
    model.module, tokenizer, encoders.instruction_of(config), length
  )
  text, mask = encode.encode(
    model.module, params, tokenizer, [''], length=length
  )
  return online, {
    'text_encoder': online.frozen(params),
    'null_text': text[0],
    'null_mask': mask[0],
  }


def _members(config, cached, data, multiple):
  """The records of each bucket."""
  if cached is not None:
    return cached.buckets()
  of_records = common.bucket_of_records(config, data, multiple)
  return [
    np.flatnonzero(of_records == bucket)
    for bucket in range(int(of_records.max()) + 1)
  ]
