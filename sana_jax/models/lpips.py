"""LPIPS: perceptual distance of two images, from features of a trained VGG16.

    d(x, y) = sum_l mean_pixels sum_c w_lc (f_lc(x) - f_lc(y))^2

over five layers, where the features f of a pixel have unit length and the
w >= 0 were fitted to people's judgements (Zhang et al., arXiv:1801.03924,
version 0.1 with VGG16). The gradient is finite where all features of a pixel
are 0; in the reference it is NaN there.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.typing import Array, DType, Float

# Channels of the convolutions between two poolings.
STAGES = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
# Statistics of VGG16's training images, on a scale from -1 to 1.
_MEAN = (-0.030, -0.088, -0.188)
_STD = (0.458, 0.448, 0.450)


class VGG16(nn.Module):
  """Features of images in [-1, 1], after the last ReLU of each stage."""

  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self, images: Float[Array, 'b y x 3']
  ) -> list[Float[Array, 'b _ _ _']]:
    x = (images - jnp.asarray(_MEAN)) / jnp.asarray(_STD)
    features = []
    for s, channels in enumerate(STAGES):
      if s:
        x = nn.max_pool(x, (2, 2), (2, 2))
      for i, width in enumerate(channels):
        x = nn.relu(
          nn.Conv(
            width,
            (3, 3),
            padding=1,
            dtype=self.dtype,
            name=f'conv{s + 1}_{i + 1}',
          )(x)
        )
      features.append(x)
    return features


class LPIPS(nn.Module):
  """Distance of each pair of images in [-1, 1]; sides are at least 16 px."""

  dtype: DType = jnp.float32  # Dtype of the convolutions.

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b y x 3'], y: Float[Array, 'b y x 3']
  ) -> Float[Array, 'b']:
    vgg = VGG16(self.dtype, name='vgg')
    total = 0.0
    for s, (a, b) in enumerate(zip(vgg(x), vgg(y))):
      weight = self.param(
        f'weight{s + 1}',
        nn.initializers.constant(1 / a.shape[-1]),
        a.shape[-1:],
      )
      squares = (unit(a) - unit(b)) ** 2
      total += jnp.mean(squares @ weight, axis=(1, 2))
    return total


def unit(x: Float[Array, 'b y x c']) -> Float[Array, 'b y x c']:
  """Normalises to x / |x| over channels in float32; 0 stays 0."""
  x = x.astype(jnp.float32)
  # The square root has no gradient at 0; the maximum has.
  length = jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-20))
  return x / (length + 1e-10)


def init(rng: jax.Array) -> dict:
  """Initial parameters; only their shapes are used."""
  blank = jnp.zeros((1, 16, 16, 3))
  return LPIPS().init(rng, blank, blank)['params']
