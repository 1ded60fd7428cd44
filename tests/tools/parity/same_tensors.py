"""Tensors of torch and of this package, to be compared."""

import ml_dtypes
import numpy as np
import pytest

from sana_jax.weights.tensors import stored

torch = pytest.importorskip('torch')


def to_numpy(tensor):
  tensor = tensor.detach().contiguous()
  if tensor.dtype == torch.bfloat16:
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
  return tensor.numpy()


def to_torch(array):
  if array.dtype == ml_dtypes.bfloat16:
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
  return torch.from_numpy(array)


def lazy(state):
  return {key: stored(to_numpy(x)) for key, x in state.items()}


def eager(tensors):
  return {key: to_torch(t.read()) for key, t in tensors.items()}


def assert_same(got, want):
  assert got.keys() == want.keys()
  for key, value in want.items():
    assert got[key].dtype == value.dtype and torch.equal(got[key], value), key
