"""Adapters of another rank, by singular value decomposition.

The best approximation of an update by one of rank r keeps its r largest
singular values (Eckart and Young). An update of rank R is decomposed through
QR of its factors, at the cost of an R x R matrix; the difference of two models
through its products with R + 16 random vectors (Halko et al., 0909.4061).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sana_jax.errors import UserError
from sana_jax.weights.lora.combining import weight_of, Weighted
from sana_jax.weights.lora.lows import Low, Lows
from sana_jax.weights.tensors import Stored

_MORE, _PASSES = 16, 4  # Random vectors beyond the rank, and power iterations.


class Size(NamedTuple):
  """Size of a result: at most `rank`, and no more than `keep` requires.

  Attributes:
    keep: fraction of the Frobenius norm to keep, up to 1.
  """

  rank: int
  keep: float = 1.0


def resized(updates: Lows, size: Size) -> dict[str, Low]:
  """The updates with another rank; DoRA's magnitudes are those of before."""
  return {
    key: _cut(*_svd(_matrix(low.up) * low.scale, _rows(low.down)), size, low)
    for key, low in updates.items()
  }


def merged(adapters: Sequence[Weighted], size: Size | None) -> dict[str, Low]:
  """One adapter that adds what all of them add; exact without a size.

  Raises UserError for DoRA, whose magnitudes depend on the model.
  """
  out = {}
  for key in dict.fromkeys(key for a in adapters for key in a.updates):
    lows = [
      (a.updates[key], weight_of(a.weight, key))
      for a in adapters
      if key in a.updates
    ]
    if any(low.magnitude is not None for low, _ in lows):
      raise UserError(
        f'{key} is a DoRA, which is merged into a model only: see sana-jax '
        'convert --lora.',
        key='lora',
        value=key,
        allowed='adapters without magnitudes',
      )
    up = [low.up * np.float32(low.scale * weight) for low, weight in lows]
    down = np.concatenate([low.down for low, _ in lows])
    out[key] = Low(down, np.concatenate(up, axis=1), 1.0)
  return resized(out, size) if size else out


class Difference(NamedTuple):
  """Difference of two models.

  Attributes:
    updates: of the layers that differ.
    error: relative error of these updates, in the Frobenius norm.
    others: number of other tensors that differ, which no adapter holds.
  """

  updates: dict[str, Low]
  error: float
  others: int


def extracted(
  base: Mapping[str, Stored],
  tuned: Mapping[str, Stored],
  keys: Sequence[str],
  size: Size,
) -> Difference:
  """Differences of the weights of these layers, as updates of some rank."""
  out, missed, norm = {}, 0.0, 0.0
  layers = {f'{key}.weight': key for key in keys}
  others = 0
  for name, tensor in tuned.items():
    delta = np.float32(tensor.read()) - np.float32(base[name].read())
    if not delta.any():
      continue
    if name not in layers:
      others += 1
      continue
    low = _of_matrix(delta, size)
    out[layers[name]] = low
    norm += np.sum(np.float64(delta) ** 2)
    missed += np.sum((delta.reshape(len(delta), -1) - product(low)) ** 2)
  return Difference(out, float(np.sqrt(missed / norm)) if norm else 0.0, others)


def product(low: Low) -> np.ndarray:
  """The update of a layer as a matrix (out, in), in float64."""
  return low.scale * _matrix(low.up) @ _rows(low.down)


def _of_matrix(delta, size):
  """The update nearest to a difference of weights."""
  matrix = delta.reshape(len(delta), -1)
  down = np.broadcast_to(np.float32(0), (1, *delta.shape[1:]))
  up = np.broadcast_to(np.float32(0), (len(delta), 1, *[1] * (delta.ndim - 2)))
  return _cut(*_random_svd(matrix, size.rank), size, Low(down, up, 1.0))


def error(exact: Lows, approximate: Lows) -> float:
  """Relative error of the updates, in the Frobenius norm over all layers."""
  missed = norm = 0.0
  for key, low in exact.items():
    other = approximate[key]
    missed += _square([(low, 1.0), (other, -1.0)])
    norm += _square([(low, 1.0)])
  return float(np.sqrt(max(missed, 0.0) / norm)) if norm else 0.0


def _square(lows):
  """Squared norm of a sum of updates: <B1 A1, B2 A2> = tr(B1'B2 A2 A1')."""
  up = np.concatenate([_matrix(x.up) * x.scale * f for x, f in lows], axis=1)
  down = np.concatenate([_rows(x.down) for x, _ in lows])
  return float(np.sum((up.T @ up) * (down @ down.T)))


def _svd(up, down):
  """(u, s, v) of up @ down, through QR of both."""
  left, r = np.linalg.qr(up)
  right, q = np.linalg.qr(down.T)
  u, s, v = np.linalg.svd(r @ q.T, full_matrices=False)
  return left @ u, s, v @ right.T


def _random_svd(matrix, rank):
  """The largest `rank` singular values of a matrix, and their vectors."""
  count = min(rank + _MORE, *matrix.shape)
  draw = np.random.default_rng(0).normal(size=(matrix.shape[1], count))
  basis = np.linalg.qr(matrix @ np.float32(draw))[0]
  for _ in range(_PASSES):
    basis = np.linalg.qr(matrix.T @ basis)[0]
    basis = np.linalg.qr(matrix @ basis)[0]
  u, s, v = np.linalg.svd(basis.T @ matrix, full_matrices=False)
  return basis @ u, s, v


def _cut(u, s, v, size, low):
  """The update of the largest singular values, in the layout of `low`."""
  energy = np.cumsum(np.float64(s) ** 2)
  enough = np.searchsorted(energy, size.keep**2 * energy[-1] * (1 - 1e-9)) + 1
  rank = int(max(1, min(size.rank, len(s), enough)))
  root = np.sqrt(s[:rank])
  return Low(
    np.float32(root[:, None] * v[:rank]).reshape(rank, *low.down.shape[1:]),
    np.float32(u[:, :rank] * root).reshape(-1, rank, *low.up.shape[2:]),
    1.0,
    low.magnitude,
  )


def _matrix(x):
  return np.float64(x.reshape(x.shape[:2]))


def _rows(x):
  return np.float64(x.reshape(len(x), -1))
