"""PatchGAN discriminator, which scores patches (pix2pix, arXiv:1611.07004).

It has 4 x 4 convolutions, three of which halve the sides; each output scores
its receptive field of 70 x 70 pixels. Norms are pix2pix's alternative, instance
normalisation without parameters (`--norm instance`). The default of pix2pix and
VQGAN, batch normalisation, makes a picture's score and gradient depend on the
other pictures of its shard and microbatch, and needs running means. Biases
before a norm, which removes them, are omitted.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.typing import Array, DType, Float

WIDTHS = (64, 128, 256, 512)  # The last one keeps the sides.
SMALLEST_PX = 24  # A smaller image has no patch.
_EPS = 1e-5


class PatchGAN(nn.Module):
  """Scores of images in [-1, 1]: above 0 for real ones."""

  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, images: Float[Array, 'b y x c']) -> Float[Array, 'b v u']:
    def conv(x, width, stride, name, use_bias=True):
      return nn.Conv(
        width,
        (4, 4),
        (stride, stride),
        padding=1,
        use_bias=use_bias,
        dtype=self.dtype,
        kernel_init=nn.initializers.normal(0.02),
        name=name,
      )(x)

    first, *widths, last = WIDTHS
    x = nn.leaky_relu(conv(images, first, 2, 'conv_0'), 0.2)
    for i, width in enumerate([*widths, last], start=1):
      stride = 1 if width == last else 2
      x = conv(x, width, stride, f'conv_{i}', use_bias=False)
      x = nn.leaky_relu(instance_norm(x), 0.2)
    return conv(x, 1, 1, 'conv_out')[..., 0].astype(jnp.float32)


def instance_norm(x: Float[Array, 'b y x c']) -> Float[Array, 'b y x c']:
  """Mean 0 and variance 1 of each channel of each image, in float32."""
  wide = x.astype(jnp.float32)
  mean = jnp.mean(wide, axis=(1, 2), keepdims=True)
  var = jnp.mean((wide - mean) ** 2, axis=(1, 2), keepdims=True)
  return ((wide - mean) * jax.lax.rsqrt(var + _EPS)).astype(x.dtype)
