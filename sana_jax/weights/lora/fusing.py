"""Merges adapters into the weights of a model, row by row as they are read.

  W' = W + w s B A,  and with DoRA  W' = magnitude (W + ...) / ||W + ...||

in float32 and rounded once, in the order of combining.py, so that the merged
model equals the base with its adapters.
"""

from collections.abc import Mapping, Sequence
import math
import pathlib

import numpy as np

from sana_jax.weights import exchange, kinds
from sana_jax.weights import folder as folders
from sana_jax.weights.lora import reading
from sana_jax.weights.lora.combining import weight_of, Weighted
from sana_jax.weights.tensors import Stored


def fused(
  tensors: Mapping[str, Stored], adapters: Sequence[Weighted]
) -> dict[str, Stored]:
  """Tensors of a transformer by diffusers' names, with adapters merged."""
  out = dict(tensors)
  for key in dict.fromkeys(key for a in adapters for key in a.updates):
    name = f'{key}.weight'
    lows = [
      (a.updates[key], weight)
      for a in adapters
      if key in a.updates and (weight := weight_of(a.weight, key))
    ]
    if lows:
      out[name] = _lazily(tensors[name], lows)
  return out


def fused_part(part: exchange.Part, files: Sequence) -> exchange.Part:
  """A transformer with adapter files, of (path, weight), merged."""
  module = kinds.of_config(part.config, 'transformer').module(
    part.config, np.float32
  )
  adapters = [
    Weighted(reading.read(path, module), weight) for path, weight in files
  ]
  return part._replace(tensors=fused(part.tensors, adapters))


def fuse_folder(folder: pathlib.Path, files: Sequence) -> None:
  """Merges adapter files into the transformer of a new model folder."""
  part = exchange.open_source(str(folder / 'transformer')).parts['transformer']
  merged = fused_part(part, files)
  folders.write_part(folder, 'fused', merged.config, merged.tensors)
  exchange.remove(folder / 'transformer')
  (folder / 'fused').replace(folder / 'transformer')


def _lazily(tensor: Stored, lows) -> Stored:
  columns = math.prod(tensor.shape[1:])

  def fetch(start, stop):
    base = np.float32(tensor.fetch(start, stop)).reshape(-1, columns)
    out = base
    for low, weight in lows:
      scale = np.float32(low.scale * weight)
      rows = low.up.reshape(len(low.up), -1)[start:stop]
      delta = scale * rows @ low.down.reshape(low.rank, -1)
      if low.magnitude is None:
        out = out + delta
      else:
        norm = np.linalg.norm(base + delta, axis=1)
        gain = low.magnitude[start:stop] / norm
        out = gain[:, None] * (out + delta)
    return out.reshape(-1, *tensor.shape[1:]).astype(tensor.dtype)

  return Stored(tensor.shape, tensor.dtype, fetch)
