"""Our side of a benchmark: one stage of the pipeline, ready to be called."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.benchmark import flops, models
from sana_jax.benchmark.request import PROMPT, Request
from sana_jax.inference import pipeline, stages
from sana_jax.inference.pipeline import Pipeline
from sana_jax.text import prompts, tokenizer
from sana_jax.weights import zoo
from sana_jax.weights.folder import Model


class Stage(NamedTuple):
  """`run()` returns when the device is done; `flops` are those of one call."""

  run: Callable[[], Any]
  flops: int


def load(stage: str, request: Request) -> Stage:
  """Only the model that the stage needs is in memory."""
  part = {'text': 'text_encoder', 'denoise': 'transformer', 'decode': 'vae'}
  config = zoo.get(request.model).configs()[part[stage]]
  model = models.ours(part[stage], config, request.dtype)
  return _STAGES[stage](model, request)


def text_tokenizer():
  """A real tokenizer for the instruction and the prompt.

  Gemma's own cannot be shipped; this one cuts into about as many tokens.
  """
  return tokenizer.train([*prompts.INSTRUCTION_LINES, PROMPT], 800)


def matmul_rate(dtype: str) -> float:
  """FLOP/s of a large product on this device: what it can do at best."""
  import time
  n = 2048 if jax.default_backend() == 'cpu' else 8192
  x = jnp.ones((n, n), dtype)
  multiply = jax.jit(lambda x: x @ x)
  multiply(x).block_until_ready()
  best = float('inf')
  for _ in range(5):
    start = time.perf_counter()
    multiply(x).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return 2 * n**3 / best


def peak_bytes() -> int | None:
  """The most that the device had in use; None where it does not say (CPU)."""
  found = jax.devices()[0].memory_stats() or {}
  return found.get('peak_bytes_in_use')


def device() -> str:
  """What is measured."""
  return jax.devices()[0].device_kind


def _pipeline(**parts):
  blank = Model(None, {})
  return Pipeline(**{
    'transformer': blank, 'autoencoder': blank, 'text_encoder': blank,
    'tokenizer': None, **parts})


def _text(model, request):
  pipe = _pipeline(text_encoder=model, tokenizer=text_tokenizer())
  asked = [PROMPT] * request.batch
  run = lambda: jax.block_until_ready(pipe.encode_prompts(asked))
  (embeddings, _), _ = run()  # From now on the instruction is in the cache.
  length = embeddings.shape[1]
  past = next(x[1] for key, x in pipe.cache.items() if isinstance(key, bytes))
  work = flops.count(
    model.module.apply, model.variables,
    _like((request.batch, length - 1), int),
    _like((request.batch, length - 1), bool), past)
  return Stage(run, work)


def _denoise(model, request):
  pipe = _pipeline(transformer=model)
  length = pipeline.text_length(
    text_tokenizer(), [PROMPT], prompts.INSTRUCTION)
  noise = _normal(request.latent_shape, jnp.float32)
  width = model.module.caption_channels
  text = _text_like(request.batch, length, width, request.dtype)
  negative = _text_like(1, length, width, request.dtype)
  how = dict(steps=request.steps, guidance=request.guidance_scale)
  run = lambda: pipe.denoise(noise, text, negative, **how).block_until_ready()
  return Stage(run, flops.count(
    lambda noise, text, negative: pipe.denoise(noise, text, negative, **how),
    noise, text, negative))


def _decode(model, request):
  pipe = _pipeline(autoencoder=model)
  latents = _normal(request.latent_shape, jnp.float32)
  size = request.height, request.width
  run = lambda: stages.to_uint8(pipe.decode(latents, size)).block_until_ready()
  return Stage(run, flops.count(
    functools.partial(pipe.decode, size=size), latents))


_STAGES = {'text': _text, 'denoise': _denoise, 'decode': _decode}


def _text_like(batch, length, width, dtype):
  return (_normal((batch, length, width), dtype),
          jnp.ones((batch, length), bool))


def _normal(shape, dtype):
  return jnp.asarray(
    np.random.default_rng(0).standard_normal(shape, np.float32), dtype)


def _like(shape, dtype):
  return jax.ShapeDtypeStruct(shape, dtype)
