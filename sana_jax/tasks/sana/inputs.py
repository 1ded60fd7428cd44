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
from typing import Any, NamedTuple

from absl import logging
import flax.linen as nn
import grain
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from sana_jax.data import buckets, cache, files, masks, pipeline
from sana_jax.data.cache import CachedSource
from sana_jax.data.chain import chained
from sana_jax.data.order import Bucketed, Paired
from sana_jax.data.records import BadRecord, MAX_BAD_FRACTION
from sana_jax.data.sources import DescribedSource, DrawnSource
from sana_jax.printable import counted
from sana_jax.tasks import common
from sana_jax.tasks.sana import (
  caching,
  class_pictures,
  encoders,
  fingerprints,
)
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
    side: pixels of a latent's side.
    class_members: records of each bucket of the class whose prior is preserved;
      None without.
    class_weight: weight of their loss.
    masked: whether records weight the loss of their latents.
    autoencoder: encodes images in the step, if latents are not cached.
    text: embeds captions in the step, if text is not cached.
    frozen: `null_text` [m e], `null_mask` [m], and parameters of these two.
  """

  source: DrawnSource
  members: Sequence[Int[np.ndarray, '_']]
  sizes: Sequence[tuple[int, int]]
  side: int
  class_members: Sequence[Int[np.ndarray, '_']] | None
  class_weight: float
  masked: bool
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
        order=self._order(batch_size, seed),
        read=self.source.at,
        map_fn=self.example,
        num_threads=threads,
        max_bad_fraction=max_bad_fraction,
      )
    )

  def _order(self, batch_size, seed):
    if self.class_members is None:
      return Bucketed(self.members, batch_size, seed)
    return Paired(self.members, self.class_members, batch_size, seed)

  def example(self, record: dict[str, Any], bucket: int) -> dict[str, Any]:
    """A row of a batch, from a record of the source."""
    out = {
      key: record[key] for key in ('latents', 'text', 'mask') if key in record
    }
    if self.autoencoder is not None:
      out['image'] = buckets.fit(record['image'], self.sizes[bucket])
    if self.masked or self.class_members is not None:
      out['weights'] = self._weights(record, self.sizes[bucket])
    if self.text is not None:
      out |= self.text.tokens(record['caption'])
    return out

  def _weights(self, record, size):
    """Weight of the loss of each latent of a record."""
    height, width = (length // self.side for length in size)
    weights = np.ones((height, width), np.float32)
    if 'cells' in record:  # In a cache.
      weights = record['cells']
    elif 'weights' in record:
      weights = masks.cells(record['weights'], size, self.side)
    if self.class_members is None:
      return weights
    # The sum of the means over the two halves, as in diffusers.
    return 2 * weights * (self.class_weight if record['part'] else 1)

  def encode(self, frozen: PyTree, batch: PyTree) -> dict[str, Array]:
    """'latents', 'text', 'mask' and any 'weights' of a batch.

    Pure, without gradients.
    """
    out = {
      key: batch[key]
      for key in ('latents', 'text', 'mask', 'weights')
      if key in batch
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
  _report_few(given, config.batch_size)
  return Data(
    functools.partial(
      given.batches,
      threads=config.data.threads,
      max_bad_fraction=float(config.data.max_bad_fraction),
    ),
    dataset_check.records_of([*given.members, *(given.class_members or ())]),
  )


def _report_few(given, batch_size):
  """Logs once that pictures of a bucket repeat to fill a batch."""
  rows = batch_size // (1 if given.class_members is None else 2)
  counts = [len(np.unique(members)) for members in given.members]
  if few := [count for count in counts if 0 < count < rows]:
    logging.info(
      '%s of %d with fewer pictures than the %d of a batch: they repeat '
      'within it.',
      counted(len(few), 'size'),
      sum(count > 0 for count in counts),
      rows,
    )


class _Part(NamedTuple):
  """Opened records of a config: its cache, its source, or both."""

  cached: CachedSource | None
  data: DescribedSource | None
  members: Sequence[Int[np.ndarray, '_']]

  @property
  def count(self) -> int:
    """Number of records, the unusable ones included."""
    return len(self.data if self.cached is None else self.cached)


def make(
  config: ConfigDict, workdir: os.PathLike | str, mesh: Mesh | None = None
) -> Inputs:
  """Opens the inputs of config.inputs, and makes its cache if needed.

  Args:
    workdir: folder of the cache if config.inputs.cache names none, and of the
      pictures of config.prior.
    mesh: online encoders are sharded over it; replicated without.

  Raises UserError.
  """
  with_class = class_pictures.is_used(config)
  if with_class:
    class_pictures.check(config)
  side, workdir = encoders.compression(config), resolve(workdir)
  sizes = common.bucket_sizes(config, side)
  parts = [_opened(config, workdir / 'encoded', side)]
  others, weight = None, 1.0
  if with_class:
    prior = class_pictures.prepare(config, workdir, parts[0].members, sizes)
    parts.append(_opened(prior, workdir / 'class' / 'encoded', side))
    others = class_pictures.members(
      parts[0].members, parts[1].members, sizes, parts[0].count
    )
    weight = config.prior.loss_weight
  cached = chained([part.cached for part in parts])
  images = chained([part.data for part in parts])
  autoencoder, frozen = _images(config, mesh)
  text, more = _text(config, cached, mesh)
  return Inputs(
    _Joined(cached, images) if cached and images else cached or images,
    parts[0].members,
    sizes,
    side,
    others,
    weight,
    bool(config.data.masks),
    autoencoder,
    text,
    frozen | more,
  )


def _opened(config, path, side) -> _Part:
  """Records of a config, whose cache is made in `path` if it names none."""
  settings = config.inputs
  cached = images = None
  if 'cached' in (settings.latents, settings.text):
    cached = _open_cache(config, os.fspath(path))
  if settings.latents == 'online':
    images = common.open_inputs(config)
  return _Part(cached, images, _members(config, cached, images, side))


class _Joined:
  """Captions and text of a cache with the images that it was made of."""

  def __init__(self, cached: CachedSource, data: DescribedSource):
    self._cached, self._data = cached, data

  def __len__(self) -> int:
    return len(self._cached)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.at(index, 0)

  def at(self, index: int, draw: int) -> dict[str, Any]:
    record = self._data[index]
    images = {key: record[key] for key in ('image', 'weights') if key in record}
    return {**self._cached.at(index, draw), **images}


def _open_cache(config, path) -> CachedSource:
  """The cache that the config names, or the run's own, made if needed."""
  if config.inputs.cache:
    path = config.inputs.cache
    fingerprints.compare_given(path, config)
  else:
    _set_aside_if_other(path, config)
    caching.make(config, path)
  return CachedSource(
    path,
    common.caption_rule(config.data),
    want=[
      name for name in ('latents', 'text') if config.inputs[name] == 'cached'
    ],
    masked=bool(config.data.masks),
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


def _members(config, cached, data, side):
  """The records of each bucket, as often as they are repeated."""
  if cached is not None:
    found = cached.buckets()
  else:
    of_records = common.bucket_of_records(config, data, side)
    found = [
      np.flatnonzero(of_records == bucket)
      for bucket in range(int(of_records.max()) + 1)
    ]
  if config.data.source != 'kohya':
    return found
  repeats = (data or common.open_inputs(config)).repeats()
  return [np.repeat(members, repeats[members]) for members in found]
