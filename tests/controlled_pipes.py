"""Tiny pipelines with a ControlNet of random weights."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.inference.pipeline import Pipeline
from sana_jax.models import abstract
from sana_jax.models.controlnet import controlnet_of
from sana_jax.weights.folder import Model

TINY = pathlib.Path(__file__).parent / 'golden/tiny_sana'
RNG = np.random.default_rng(0)


@functools.cache
def plain():
  """The tiny pipeline, of a base that a ControlNet's config can describe."""
  pipe = Pipeline.from_pretrained(TINY, 'float32', encoder=True)
  module = pipe.transformer.module.clone(qk_norm=False, cross_norm=False)
  return pipe.replace(transformer=_random(module, abstract.transformer_init))


def _random(module, init):
  shapes = jax.eval_shape(init(module), jax.random.key(0))
  return Model(
    module,
    {
      'params': jax.tree.map(
        lambda x: jnp.asarray(0.2 * RNG.normal(size=x.shape), jnp.float32),
        shapes,
      )
    },
  )


@functools.cache
def controlled(wiring='diffusers'):
  net = controlnet_of(plain().transformer.module, 1, wiring)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.2 * RNG.normal(size=x.shape), jnp.float32),
    abstract.controlnet(net)['params'],
  )
  return plain().replace(controlnets=(Model(net, {'params': params}),))
