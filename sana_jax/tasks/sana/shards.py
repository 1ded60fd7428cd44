"""Encodes the records of one shard of a cache, on all devices of a process."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
import numpy as np

from sana_jax.data import buckets, cache, masks
from sana_jax.data.records import BadRecord, BadRecords, DAMAGED, name_of
from sana_jax.errors import UserError
from sana_jax.sharding.mesh import batch_spec, make_mesh
from sana_jax.tasks import common
from sana_jax.tasks.sana import encoders
from sana_jax.typing import Array, Float, Image, Images
from sana_jax.weights.folder import Model


@dataclasses.dataclass(frozen=True)
class ShardEncoder:
  """Encodes the records of a source into shards of a cache.

  Attributes:
    source: the records.
    sizes: (height, width) of each bucket.
    of_records: bucket of each record; -1 for an unknown size.
    side: pixels of a latent's side.
    batch_size: images, or captions, at a time.
    images: uint8 images -> latents, or None to store none.
    texts: captions -> (embeddings, mask), or None to store none.
    dtype: dtype of the stored arrays.
    bad: counter of bad records.
  """

  source: Any
  sizes: list[tuple[int, int]]
  of_records: np.ndarray
  side: int
  batch_size: int
  images: Callable[[Images], Array] | None
  texts: Callable[[list[str]], tuple[Array, Array]] | None
  dtype: np.dtype
  bad: BadRecords

  @classmethod
  def from_config(
    cls, config: ConfigDict, source: Any, batch_size: int
  ) -> 'ShardEncoder':
    """An encoder for a config, with models on this process's devices."""
    multiple = encoders.compression(config)
    mesh = make_mesh({'data': -1}, jax.local_devices())
    batch_size = -(-batch_size // mesh.size) * mesh.size
    inputs = config.inputs
    return cls(
      source,
      common.bucket_sizes(config, multiple),
      common.bucket_of_records(config, source, multiple),
      multiple,
      batch_size,
      _images(config, mesh) if inputs.latents == 'cached' else None,
      _texts(config, mesh) if inputs.text == 'cached' else None,
      jax.numpy.dtype(inputs.dtype),
      BadRecords(len(source), float(config.data.max_bad_fraction)),
    )

  @staticmethod
  def null_text(config: ConfigDict) -> Float[np.ndarray, 'm e']:
    """The empty prompt's embedding, without padding."""
    text, mask = _texts(
      config, make_mesh({'data': -1}, jax.local_devices()[:1]), ''
    )([''])
    return np.asarray(text)[0][np.asarray(mask)[0]].astype(config.inputs.dtype)

  def read(self, position: int) -> tuple[cache.Record, Image | None]:
    """A record without its latents, and its image in the size of its bucket.

    In their place are the weights of the loss of masked data [y x].

    A bad record is counted and returned empty, without an image.
    """
    bucket = int(self.of_records[position])
    try:
      record = self.source.with_all_captions(position)
      if bucket < 0:
        raise BadRecord(
          name_of(self.source, position), 'its size cannot be read'
        )
      image = buckets.fit(record['image'], self.sizes[bucket])
    except BadRecord as error:
      self.bad.add(error)
    except UserError:
      raise
    except DAMAGED as error:
      self.bad.add(BadRecord(name_of(self.source, position), repr(error)))
    else:
      self.bad.saw_good()
      weights = None
      if 'weights' in record and self.images is not None:
        weights = masks.cells(record['weights'], self.sizes[bucket], self.side)
      return cache.Record(
        record['index'], bucket, record['captions'], record['scores'], weights
      ), image
    return cache.Record(position, bucket, {}, {}, None), None

  def shard(
    self, records: Iterable[tuple[cache.Record, Image | None]]
  ) -> bytes:
    """Content of the shard of these records."""
    kept, groups = [], collections.defaultdict(list)
    encoded = []  # (places, latents in flight).
    for place, (record, image) in enumerate(records):
      kept.append(record)
      if image is not None and self.images is not None:
        group = groups[record.bucket]
        group.append((place, image))
        if len(group) == self.batch_size:
          encoded.append(self._encode(groups.pop(record.bucket)))
    encoded += [self._encode(group) for group in groups.values()]
    texts = self._texts(kept)
    for places, rows in encoded:
      for place, row in zip(places, np.asarray(rows).astype(self.dtype)):
        kept[place] = kept[place]._replace(
          latents=_with_weights(row, kept[place].latents)
        )
    return cache.pack_shard(kept, texts)

  def _encode(self, group):
    places, images = zip(*group)
    return places, self.images(_filled(np.stack(images), self.batch_size))

  def _texts(self, kept):
    """Embedding of each distinct caption, batched by length."""
    if self.texts is None:
      return None
    captions = sorted(
      {c for r in kept for c in r.captions.values()}, key=lambda c: (len(c), c)
    )
    out = {}
    for start in range(0, len(captions), self.batch_size):
      chunk = captions[start : start + self.batch_size]
      text, mask = self.texts(chunk + [''] * (self.batch_size - len(chunk)))
      out |= {
        caption: rows[there].astype(self.dtype)
        for caption, rows, there in zip(
          chunk, np.asarray(text), np.asarray(mask)
        )
      }
    return out


def _images(config, mesh):
  """uint8 images [batch_size y x 3] -> latents, split over the mesh."""
  model = _on(mesh, encoders.load_autoencoder(config))
  run = jax.jit(encoders.encode_images, static_argnums=0)
  place = _placer(mesh)
  return lambda images: run(model.module, model.variables, place(images))


def _texts(config, mesh, instruction=None):
  """Captions -> (embeddings, mask); the instruction is encoded once."""
  if instruction is None:
    instruction = encoders.instruction_of(config)
  return functools.partial(
    encoders.encode_captions,
    _on(mesh, encoders.load_text_encoder(config)),
    encoders.load_tokenizer(config),
    instruction=instruction,
    limit=config.inputs.text_length,
    prefix_cache={},
    put=_placer(mesh),
  )


def _on(mesh, model):
  everywhere = NamedSharding(mesh, jax.P())
  return Model(model.module, jax.device_put(model.variables, everywhere))


def _placer(mesh):
  rows = NamedSharding(mesh, batch_spec(mesh))
  return lambda x: jax.device_put(x, rows)


def _with_weights(latents, weights):
  """Latents with any weights as their last channel."""
  if weights is None:
    return latents
  last = weights[..., None].astype(latents.dtype)
  return np.concatenate([latents, last], axis=-1)


def _filled(images, count):
  """Images padded with black ones to `count`, for one compiled shape."""
  out = np.zeros((count, *images.shape[1:]), images.dtype)
  out[: len(images)] = images
  return out


def ahead(
  pool: futures.Executor, function: Callable, items: Iterable, depth: int
) -> Iterator:
  """`function` of each item, in order, with `depth` of them in flight."""
  waiting = collections.deque()
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) >= depth:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    for future in waiting:
      future.cancel()
