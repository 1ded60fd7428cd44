"""CLIP: features of images and texts in a common space (arXiv:2103.00020).

Two pre-norm transformers. The image tower is a ViT with a class token; the text
tower is causal, and its feature is at the token that ends the text, so that
tokens after it do not matter. Formulas are those of transformers' CLIPModel.
"""

from collections.abc import Callable, Mapping
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.typing import Array, DType, Float, Int

_INIT = nn.initializers.normal(0.02)


def quick_gelu(x: Float[Array, '*b']) -> Float[Array, '*b']:
  """OpenAI's approximation of GELU, x sigmoid(1.702 x)."""
  return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable] = {
  'quick_gelu': quick_gelu,
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
}


@dataclasses.dataclass(frozen=True)
class Tower:
  """Size of a tower's transformer; `hidden` is the width of its MLPs."""

  width: int
  depth: int
  heads: int
  hidden: int
  activation: str = 'quick_gelu'
  eps: float = 1e-5


class Layer(nn.Module):
  """Body of the scan: attention and an MLP, each behind a norm."""

  tower: Tower
  causal: bool
  dtype: DType

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b m d'], _: None
  ) -> tuple[Float[Array, 'b m d'], None]:
    x = x + self._attention(_norm(self, 'attention_norm')(x))
    y = self._dense('up', self.tower.hidden)(_norm(self, 'mlp_norm')(x))
    y = ACTIVATIONS[self.tower.activation](y)
    return x + self._dense('down', x.shape[-1])(y), None

  def _attention(self, x):
    def project(name):
      y = self._dense(name, x.shape[-1])(x)
      return y.reshape(*x.shape[:2], self.tower.heads, -1)

    y = jax.nn.dot_product_attention(
      project('query'), project('key'), project('value'), is_causal=self.causal
    )
    return self._dense('out', x.shape[-1])(y.reshape(x.shape))

  def _dense(self, name, features):
    return nn.Dense(features, dtype=self.dtype, kernel_init=_INIT, name=name)


def _norm(module, name):
  # In two passes: the variance of one pass, E[x^2] - E[x]^2, cancels.
  return nn.LayerNorm(
    module.tower.eps, dtype=module.dtype, use_fast_variance=False, name=name
  )


def _layers(tower, causal, dtype):
  """Layers over stacked parameters, as the module `layers`."""
  return nn.scan(
    Layer,
    variable_axes={'params': 0},
    split_rngs={'params': True},
    in_axes=nn.broadcast,
    length=tower.depth,
  )(tower, causal, dtype, name='layers')


class VisionTower(nn.Module):
  """State of the class token, after the last norm."""

  tower: Tower
  image_size: int
  patch: int
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, images: Float[Array, 'b y x 3']) -> Float[Array, 'b d']:
    width, patch = self.tower.width, (self.patch, self.patch)
    tokens = (self.image_size // self.patch) ** 2 + 1
    x = nn.Conv(
      width,
      patch,
      patch,
      padding='VALID',
      use_bias=False,
      dtype=self.dtype,
      name='patches',
    )(images)
    x = x.reshape(x.shape[0], -1, width)
    first = self.param('class_token', _INIT, (width,)).astype(self.dtype)
    first = jnp.broadcast_to(first, (x.shape[0], 1, width))
    x = jnp.concatenate([first, x], axis=1)
    positions = self.param('positions', _INIT, (tokens, width))
    x = _norm(self, 'pre_norm')(x + positions.astype(self.dtype))
    x, _ = _layers(self.tower, False, self.dtype)(x, None)
    return _norm(self, 'post_norm')(x[:, 0])


class TextTower(nn.Module):
  """State of the token that ends a text, after the last norm."""

  tower: Tower
  vocab_size: int
  length: int
  eos_id: int | None
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, tokens: Int[Array, 'b m']) -> Float[Array, 'b d']:
    width = self.tower.width
    positions = self.param('positions', _INIT, (self.length, width))
    x = nn.Embed(
      self.vocab_size,
      width,
      dtype=self.dtype,
      embedding_init=_INIT,
      name='embed',
    )(tokens)
    x = x + positions[: tokens.shape[1]].astype(self.dtype)
    x, _ = _layers(self.tower, True, self.dtype)(x, None)
    marks = tokens if self.eos_id is None else tokens == self.eos_id
    ends = jnp.argmax(marks, axis=1)  # The first of several.
    x = jnp.take_along_axis(x, ends[:, None, None], axis=1)[:, 0]
    return _norm(self, 'final_norm')(x)


class CLIP(nn.Module):
  """Both towers, and a linear map of each to features of `projection` channels.

  Attributes:
    image_size: side of images, in pixels.
    length: most tokens of a text.
    eos_id: id that ends a text; None for the highest one of each text, as in
      OpenAI's code.
  """

  image_size: int
  patch: int
  vision: Tower
  vocab_size: int
  length: int
  text: Tower
  projection: int
  eos_id: int | None = None
  dtype: DType = jnp.float32

  def setup(self):
    self.vision_tower = VisionTower(
      self.vision, self.image_size, self.patch, self.dtype
    )
    self.text_tower = TextTower(
      self.text, self.vocab_size, self.length, self.eos_id, self.dtype
    )
    self.vision_projection, self.text_projection = (
      nn.Dense(
        self.projection, use_bias=False, dtype=self.dtype, kernel_init=_INIT
      )
      for _ in range(2)
    )
    # ln(1 / 0.07), the start of its training.
    start = nn.initializers.constant(2.6592)
    self.logit_scale = self.param('logit_scale', start, ())

  def __call__(
    self, images: Float[Array, 'b y x 3'], tokens: Int[Array, 'b m']
  ) -> Float[Array, 'b']:
    """Returns the CLIP score of each pair, exp(logit_scale) cos."""
    return self.score(self.image_features(images), self.text_features(tokens))

  def image_features(
    self, images: Float[Array, 'b y x 3']
  ) -> Float[Array, 'b f']:
    """Returns features of normalised images."""
    return self.vision_projection(self.vision_tower(images))

  def text_features(self, tokens: Int[Array, 'b m']) -> Float[Array, 'b f']:
    """Returns features of texts, from ids that have the end's."""
    return self.text_projection(self.text_tower(tokens))

  def score(
    self, images: Float[Array, 'b f'], texts: Float[Array, 'b f']
  ) -> Float[Array, 'b']:
    """Returns exp(logit_scale) cos of each pair of features, in float32."""
    images, texts = images.astype(jnp.float32), texts.astype(jnp.float32)
    length = jnp.linalg.norm(images, axis=1) * jnp.linalg.norm(texts, axis=1)
    scale = jnp.exp(self.logit_scale.astype(jnp.float32))
    return scale * jnp.sum(images * texts, axis=1) / length
