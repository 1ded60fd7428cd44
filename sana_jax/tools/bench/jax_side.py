"""sana_jax's side of a benchmark: one stage of the pipeline, ready to call."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.analysis import flops
from sana_jax.diffusion import samplers
from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.diffusion.guidance import guide
from sana_jax.inference import decoding, few_steps
from sana_jax.inference.pipeline import Pipeline
from sana_jax.inference.schedulers import time_grid
from sana_jax.inference.texts import text_length
from sana_jax.text import prompts, tokenizer
from sana_jax.tools.bench import models
from sana_jax.tools.bench.request import PARTS, PROMPT, Request
from sana_jax.weights.folder import Model


class Stage(NamedTuple):
  """`run()` blocks until the device is done; `flops` are of one call."""

  run: Callable[[], Any]
  flops: int


def load(
  stage: str, request: Request, plain: bool = False, drawn: bool = False
) -> Stage:
  """Loads a stage, with only its model in memory.

  `plain` recomputes what the pipeline caches: the instruction, the negative
  prompt, and the keys and values of the text. `drawn` weights are made on the
  device and differ from diffusers'.
  """
  part, make = PARTS[stage], models.drawn if drawn else models.load
  model = make(part, request.config(part), request.dtype)
  return _STAGES[stage](model, request, plain)


def text_tokenizer():
  """Tokenizer trained on the instruction and the prompt.

  Gemma's cannot be shipped; this one gives about as many tokens.
  """
  return tokenizer.train([*prompts.INSTRUCTION_LINES, PROMPT], 800)


def peak_bytes() -> int | None:
  """Peak bytes in use on the device; None if unknown (CPU)."""
  found = jax.devices()[0].memory_stats() or {}
  return found.get('peak_bytes_in_use')


def _pipeline(**parts):
  names = ('transformer', 'autoencoder', 'text_encoder')
  blank = dict.fromkeys(names, Model(None, {})) | {'tokenizer': None}
  return Pipeline(**blank | parts)


def _text(model, request, plain):
  pipe = _pipeline(text_encoder=model, tokenizer=text_tokenizer())
  texts = [PROMPT] * request.batch

  def run():
    if plain:
      pipe.cache.clear()
    return jax.block_until_ready(pipe.encode_prompts(texts))

  (embeddings, _), _ = run()  # The instruction is now in the cache.
  length = embeddings.shape[1]
  past = next(x[1] for key, x in pipe.cache.items() if isinstance(key, bytes))
  shape = request.batch, length - 1
  tokens, mask = (
    jax.ShapeDtypeStruct(shape, kind) for kind in (jnp.int32, bool)
  )
  read, weights = model.module.apply, model.variables
  return Stage(run, flops.count(read, weights, tokens, mask, past))


def _denoise(model, request, plain):
  sprint, sampler = few_steps.is_sprint(model.module), 'dpm++2m'
  if sprint:
    model, (sampler, _) = few_steps.sprint(model, (sampler, 1.0))
  pipe = _pipeline(transformer=model, sampler=sampler)
  length = text_length(text_tokenizer(), [PROMPT], prompts.INSTRUCTION)
  noise = _normal(request.latent_shape, jnp.float32)
  width = model.module.caption_channels
  text = _text_like(request.batch, length, width, request.dtype)
  how = dict(steps=request.steps, guidance=request.guidance_scale)
  if sprint:
    negative, how['rng'] = None, jax.random.split(jax.random.key(0), len(noise))
  else:
    negative = _text_like(1, length, width, request.dtype)
  sampler = _plain_denoise if plain else Pipeline.denoise
  denoise = functools.partial(sampler, pipe, **how)
  run = lambda: denoise(noise, text, negative).block_until_ready()
  return Stage(run, flops.count(denoise, noise, text, negative))


def _plain_denoise(pipe, noise, text, negative, steps, guidance):
  """Samples with the model without caches."""
  grid = time_grid(pipe.sampler, steps, pipe.flow_shift)
  inputs = noise, text, negative, grid
  return _plain(*pipe.transformer, *inputs, pipe.sampler, guidance)


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def _plain(module, variables, noise, text, negative, grid, sampler, scale):
  negative = jax.tree.map(
    lambda x, y: jnp.broadcast_to(x, y.shape), negative, text
  )
  model = functools.partial(Denoiser(module), variables['params'])
  predict = guide(model, Condition(*text), Condition(*negative), scale)
  return samplers.sample(samplers.make(sampler), predict, noise, grid)


def _decode(model, request, plain):
  del plain  # The decoder has no cache.
  pipe = _pipeline(autoencoder=model)
  latents = _normal(request.latent_shape, jnp.float32)
  size = request.height, request.width
  decode = functools.partial(pipe.decode, size=size)
  run = lambda: decoding.to_uint8(decode(latents)).block_until_ready()
  return Stage(run, flops.count(decode, latents))


_STAGES = {'text': _text, 'denoise': _denoise, 'decode': _decode}


def _text_like(batch, length, width, dtype):
  mask = jnp.ones((batch, length), bool)
  return _normal((batch, length, width), dtype), mask


def _normal(shape, dtype):
  values = np.random.default_rng(0).standard_normal(shape, np.float32)
  return jnp.asarray(values, dtype)
