"""A checksum is that of the numbers, on a device or read in parts."""

import jax
import numpy as np
import pytest

from sana_jax.training import checkpoint_files
from sana_jax.training.checkpoints import checksums

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  'dtype, shape',
  [
    ('float32', ()),
    ('int8', ()),
    ('bfloat16', (5,)),
    ('bool', (5,)),
    ('float32', (6, 3, 4)),
    ('bfloat16', (6, 3, 4)),
  ],
)
def test_checksums_of_files_are_those_of_devices(dtype, shape):
  x = np.random.default_rng(0).normal(size=shape) * 9
  x = np.asarray(jax.numpy.asarray(x, dtype))
  wanted = checksums({'x': x}).tolist()
  assert [checkpoint_files.checksum(x)] == wanted
  if shape:  # Of its parts.
    parts = [
      checkpoint_files.checksum(
        x[start:stop], (start, *[0] * (x.ndim - 1)), shape
      )
      for start, stop in ((0, 2), (2, 5), (5, 6))
      if start < shape[0]
    ]
    assert [sum(parts) % 2**32] == wanted
