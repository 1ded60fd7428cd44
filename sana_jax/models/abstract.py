"""Initial parameters of the models, and their shapes, without real inputs."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.models.clip import CLIP
from sana_jax.models.controlnet import SanaControlNet
from sana_jax.models.gemma2 import Gemma2
from sana_jax.models.sana import Sana
from sana_jax.typing import Params, PRNGKeyArray, PyTree


def transformer_init(module: Sana) -> Callable[[PRNGKeyArray], Params]:
  """Returns a function rng -> parameters; the latents' size does not matter."""
  # Initialises all blocks in one scan: unrolled, it compiles as long as a step.
  module = module.clone(unroll=1)
  side = 2 * module.patch_size
  return lambda rng: module.init(
    rng,
    jnp.zeros((1, side, side, module.in_channels)),
    jnp.zeros(1),
    jnp.zeros((1, 2, module.caption_channels)),
    guidance=jnp.zeros(1),
  )['params']


def transformer(module: Sana) -> PyTree:
  """Shapes of the transformer's parameters; nothing is allocated."""
  return jax.eval_shape(transformer_init(module), jax.random.key(0))


def controlnet(module: SanaControlNet) -> PyTree:
  """Shapes of the variables."""
  side = 2 * module.patch_size
  latents = _array(1, side, side, module.in_channels)
  return _shapes(
    module, latents, _array(1), _array(1, 2, module.caption_channels), latents
  )


def autoencoder(module: nn.Module) -> PyTree:
  """Shapes of the variables."""
  side = module.spec.side
  return _shapes(module, _array(1, side, side, module.in_channels))


def text_encoder(module: Gemma2) -> PyTree:
  """Shapes of the variables."""
  return _shapes(
    module, _array(1, 2, dtype=jnp.int32), _array(1, 2, dtype=jnp.bool_)
  )


def clip(module: CLIP) -> PyTree:
  """Shapes of the variables."""
  side = module.image_size
  return _shapes(
    module, _array(1, side, side, 3), _array(1, 2, dtype=jnp.int32)
  )


def _shapes(module: nn.Module, *inputs):
  return jax.eval_shape(module.init, jax.random.key(0), *inputs)


def _array(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)
