"""A tiny transformer with random adapters, and batches for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax import config as base
from sana_jax.models import abstract, lora
from sana_jax.models.lora import Lora
from sana_jax.models.sana import Sana

MODULE = Sana(
  width=16,
  depth=2,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  out_channels=3,
  caption_channels=6,
  sample_size=4,
)
TOKENS = 4


def numbers(*shape):
  return np.random.default_rng().normal(size=shape)


@functools.cache
def adapted():
  """A model with random adapters: (Lora, parameters, factors)."""
  params = abstract.transformer_init(MODULE)(jax.random.key(0))
  found = [name for name in lora.layers(params) if 'attention' in name]
  of = Lora(dict.fromkeys(found, 2), dict.fromkeys(found, 0.5))
  factors = lora.init(jax.random.key(1), of, params)
  rng = np.random.default_rng()
  random = lambda x: jnp.asarray(rng.normal(scale=0.2, size=x.shape), x.dtype)
  return of, jax.tree.map(random, params), jax.tree.map(random, factors)


def settings(task='dpo', **changes):
  flow = base.train(task).flow.copy_and_resolve_references().unlock()
  flow.update(changes)
  return flow


def frozen():
  return {
    'null_text': jnp.asarray(numbers(TOKENS, 6), jnp.float32),
    'null_mask': jnp.arange(TOKENS) < 1,
  }


def batch(latents):
  return {
    'latents': jnp.asarray(latents, jnp.float32),
    'text': jnp.asarray(numbers(len(latents), TOKENS, 6), jnp.float32),
    'mask': jnp.arange(TOKENS) < jnp.arange(2, 2 + len(latents))[:, None],
  }
