"""Linear diffusion transformer SANA (arXiv:2410.10629, section 2.2).

It consists of patches, blocks (see block.py) and a modulated head. Only the 2K
and 4K models have a position embedding. It follows diffusers; fields select
the official code's behaviour where it differs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from sana_jax.models.attention import KeysValues, xavier
from sana_jax.models.backbone import Backbone, Features
from sana_jax.models.block import per_image, table_init
from sana_jax.models.layers import Dense, layer_normalise, modulate
from sana_jax.sharding.activations import constrain_tokens
from sana_jax.typing import Array, Bool, DType, Float, Grid

# Fields whose parts a trained model can get later: weights/additions.py.
ADDABLE = (
  'qk_norm',
  'cross_norm',
  'timestep_scale',
  'guidance_embeds',
  'logvar',
)


class Output(NamedTuple):
  """Velocity, and further outputs that a loss may use.

  Attributes:
    features: x after each requested block, as tokens [b n d], row by row.
    logvar: predicted log-variance of the error; None without such a head.
  """

  velocity: Float[Array, 'b *p o']
  features: Features = ()
  logvar: Float[Array, 'b'] | None = None


class Sana(Backbone):
  """Velocity of the flow at a noisy latent, a time and a text.

  Attributes: those of `Backbone`, and
    guidance_embeds: whether an embedding of the guidance scale is added to the
      time's (Sprint); callers multiply the scale by `guidance_embeds_scale`.
    timestep_scale: callers multiply timesteps by it (Sprint teachers: 0.001).
    logvar: whether there is a head for the log-variance of the error, which a
      loss may use (Sprint).
    control_after: index of the block that the first of a ControlNet's outputs
      follows: 1 in diffusers, 0 in the official code.
  """

  out_channels: int = 32
  guidance_embeds: bool = False
  guidance_embeds_scale: float = 0.1
  timestep_scale: float = 1.0
  logvar: bool = False
  control_after: int = 1

  def setup(self):
    super().setup()
    self.head = Head(self.out_channels, self.patch_size, dtype=self.dtype)
    if self.logvar:
      self.log_variance = Dense(1, dtype=jnp.float32)

  def __call__(self, *args, **kwargs) -> Float[Array, 'b y x o']:
    """Returns only the velocity; takes the arguments of `evaluate`."""
    return self.evaluate(*args, **kwargs).velocity

  def evaluate(
    self,
    latents: Float[Array, 'b y x c'],
    timesteps: Float[Array, 'b'],
    text: Float[Array, 'b m e'] | KeysValues,
    mask: Bool[Array, 'b m'] | None = None,
    guidance: Float[Array, 'b'] | None = None,
    control: Float[Array, 'l b n d'] | None = None,
    perturbed: Bool[Array, 'n b'] | None = None,
    features: Sequence[int] = (),
  ) -> Output:
    """Returns all outputs; timesteps are in [0, 1000], `mask` true for words.

    `text` are the text encoder's states, or their `project_text`.

    `control` are a ControlNet's outputs; those beyond the depth are unused.
    `perturbed` selects, per block and example, identity self-attention for
    perturbed-attention guidance. `features` are indices of blocks.
    """
    x, grid = self.tokens(latents)
    x = constrain_tokens(x, grid)
    time, modulation = self.embed_time(timesteps, guidance)
    if control is not None:
      control = of_each_block(
        control.astype(self.dtype), self.control_after, self.depth
      )
    x, kept, _ = self.run_blocks(
      x, grid, modulation, text, mask, control, perturbed, features
    )
    logvar = self.log_variance(time)[:, 0] if self.logvar else None
    return Output(self.head(x, time, grid), kept, logvar)


def of_each_block(
  control: Float[Array, 'l b n d'], first: int, depth: int
) -> Float[Array, '{depth} b n d']:
  """Pads a ControlNet's outputs, of blocks from `first` on, with zeros."""
  control = control[: depth - first]
  missing = depth - first - control.shape[0]
  return jnp.pad(control, [(first, missing), *[(0, 0)] * (control.ndim - 1)])


class Head(nn.Module):
  """Head: modulated norm, projection and unpatchify; channels vary fastest."""

  out_channels: int
  patch_size: int
  dtype: DType

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], time: Float[Array, 'b d'], grid: Grid
  ) -> Float[Array, 'b y x o']:
    table = self.param('scale_shift_table', table_init, (2, x.shape[-1]))
    shift, scale = (
      per_image(m, self.dtype)
      for m in jnp.moveaxis(table + time.astype(jnp.float32)[:, None], 1, 0)
    )
    y = modulate(layer_normalise(x, 1e-6), shift, scale).astype(self.dtype)
    p = self.patch_size
    y = Dense(
      p * p * self.out_channels,
      name='out',
      kernel_init=xavier,
      dtype=self.dtype,
    )(y)
    height, width = grid
    y = y.reshape(-1, height, width, p, p, self.out_channels)
    y = jnp.swapaxes(y, 2, 3)  # b y p x p c
    return y.reshape(-1, height * p, width * p, self.out_channels)
