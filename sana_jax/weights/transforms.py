"""Transforms of tensors between a file's layout and ours."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Transform(NamedTuple):
  """A function on arrays and its inverse."""

  load: Callable[[np.ndarray], np.ndarray]
  save: Callable[[np.ndarray], np.ndarray]


IDENTITY = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(np.transpose, np.transpose)  # (out, in) <-> (in, out)
CONV = Transform(  # OIHW <-> HWIO
  lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)
DEPTHWISE = Transform(  # (c, 1, k, k) <-> (k, k, c)
  lambda x: x[:, 0].transpose(1, 2, 0), lambda x: x.transpose(2, 0, 1)[:, None]
)
POINTWISE = Transform(  # (out, in, 1, 1) <-> (in, out)
  lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None]
)
