"""Embeddings of time, guidance scale and text."""

import flax.linen as nn

from sana_jax.models.layers import Dense, RMSNorm, sinusoidal_embedding
from sana_jax.typing import Array, DType, Float

normal = nn.initializers.normal(0.02)


class TimeEmbedding(nn.Module):
  """Embedding of the time (plus guidance): a vector, and six modulations."""

  width: int
  guidance_embeds: bool
  dtype: DType

  @nn.compact
  def __call__(
    self, timesteps: Float[Array, 'b'], guidance: Float[Array, 'b'] | None
  ) -> tuple[Float[Array, 'b d'], Float[Array, 'b 6 d']]:
    time = TimeMLP(self.width, name='timestep', dtype=self.dtype)(timesteps)
    if self.guidance_embeds:
      if guidance is None:
        raise ValueError('This model needs a guidance scale (guidance_embeds).')
      time = time + TimeMLP(self.width, name='guidance', dtype=self.dtype)(
        guidance
      )
    modulation = Dense(
      6 * self.width,
      name='modulation',
      kernel_init=normal,
      dtype=self.dtype,
    )(nn.silu(time))
    return time, modulation.reshape(-1, 6, self.width)


class TimeMLP(nn.Module):
  """MLP on 256 sinusoids: two layers."""

  width: int
  dtype: DType

  @nn.compact
  def __call__(self, t: Float[Array, 'b']) -> Float[Array, 'b d']:
    dense = lambda name: Dense(
      self.width, name=name, kernel_init=normal, dtype=self.dtype
    )
    return dense('linear2')(nn.silu(dense('linear1')(sinusoidal_embedding(t))))


class CaptionProjection(nn.Module):
  """Normalised projection of the text encoder's states to the model's width."""

  width: int
  norm_scale: float
  dtype: DType

  @nn.compact
  def __call__(self, text: Float[Array, 'b m e']) -> Float[Array, 'b m d']:
    dense = lambda name: Dense(
      self.width, name=name, kernel_init=normal, dtype=self.dtype
    )
    y = dense('linear2')(nn.gelu(dense('linear1')(text), approximate=True))
    return RMSNorm(
      1e-5, scale_init=self.norm_scale, name='norm', dtype=self.dtype
    )(y)
