"""Tensors and archives for tests of .pth files."""

import zipfile

import ml_dtypes
import numpy as np

from sana_jax.weights.pickled import Storage, Tensor
from sana_jax.weights.tensors import stored

DTYPES = (
  np.float32,
  np.float16,
  ml_dtypes.bfloat16,
  np.float64,
  np.int64,
  np.int32,
  np.int16,
  np.int8,
  np.uint8,
  np.bool_,
)
F32 = np.dtype(np.float32)
W = Tensor(Storage(F32, '0', 12), 2, (2, 3), (1, 4))


def some_tensors():
  rng = np.random.default_rng()
  draw = lambda *shape: rng.normal(size=shape) * 9
  out = {
    f'x.{i}.weight': draw(5, i + 1, 2).astype(dtype)
    for i, dtype in enumerate(DTYPES)
  }
  return out | {
    'scalar': np.asarray(7, np.int64),
    'empty': draw(0, 3),
    'view': draw(4, 6).T,
  }


def lazy(tensors):
  return {key: stored(x) for key, x in tensors.items()}


def archive(path, members, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, 'w', compression) as file:
    for name, data in members.items():
      file.writestr(f'x/{name}', data)
