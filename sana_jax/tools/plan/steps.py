"""The programs that are planned: described, not run, from a config.

It is the step that `sana-jax train` runs on cached latents and text, with the
optimizer, the average of the weights and all that is checked; or the loop over
steps that `sana-jax sample` runs, with guidance.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from sana_jax import kernels
from sana_jax.analysis import flops
from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.diffusion.guidance import Guidance
from sana_jax.errors import UserError
from sana_jax.inference import denoising
from sana_jax.inference.schedulers import time_grid
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.optim import factory
from sana_jax.sharding import rules, tables
from sana_jax.sharding.mesh import batch_spec, check_batch
from sana_jax.text import encode
from sana_jax.training import state as states
from sana_jax.training import step as steps
from sana_jax.training.tasks import common
from sana_jax.training.tasks.sana import flow_loss
from sana_jax.typing import PyTree

MODES = ('train', 'sample')


class Program(NamedTuple):
  """A jitted function and its arguments, of which nothing is allocated.

  Attributes:
    parts: the arguments by what they are, for a table of their memory.
    init: makes the first argument; None where it is given.
  """

  jitted: Any
  args: tuple[Any, ...]
  options: dict[str, Any]
  parts: dict[str, PyTree]
  init: Any = None

  def lower(self):
    return self.jitted.lower(*self.args, **self.options)


def module(config: ConfigDict) -> Sana:
  """The transformer; UserError for what is no SANA."""
  if config.task != 'sana':
    raise UserError(f"config.task={config.task!r} cannot be planned; only "
                    "'sana' can.")
  return common.build(Sana, config)


class Objective:
  """What a step needs of a task; no data is opened."""

  rules = tables.SANA

  def __init__(self, config: ConfigDict):
    self.module = module(config)
    self.init = abstract.transformer_init(self.module)
    self.loss = functools.partial(flow_loss, self.module, config.flow)


def make(config: ConfigDict, mesh: Mesh, mode: str = 'train',
         text: int = encode.LENGTH) -> Program:
  """The program of `mode`, for a mesh whose devices need not be here."""
  return {'train': train, 'sample': sample}[mode](config, mesh, text)


def train(config: ConfigDict, mesh: Mesh, text: int) -> Program:
  """The train step; captions have `text` tokens."""
  check_batch(mesh, config.batch_size, config.accumulate_steps)
  objective = Objective(config)
  tx = factory.make(config.optimizer, config.num_steps, config.batch_size)
  init, state = states.plan(
    objective, tx, mesh, average=config.ema_decay > 0,
    param_dtype=config.param_dtype, trainable=config.trainable)
  jitted = steps.jit_step(
    state, mesh, task=objective, tx=tx, ema_decay=config.ema_decay,
    accumulate=config.accumulate_steps, trainable=config.trainable)
  latents, words, mask = inputs(config, mesh, text)
  frozen = dict(zip(('null_text', 'null_mask'), _words(config, mesh, 1, text)))
  batch = {'latents': latents, 'text': words, 'mask': mask}
  key = jax.eval_shape(lambda: jax.random.key(0))
  rng = _like(mesh, key.shape, key.dtype, False)
  return Program(jitted, (state, frozen, batch, rng), {}, {
    'parameters': state.params, 'average': state.ema,
    'optimizer': state.opt_state, 'batch': (frozen, batch)}, init)


def sample(config: ConfigDict, mesh: Mesh, text: int) -> Program:
  """All steps of a batch's sampler, the text encoded, latents not decoded."""
  check_batch(mesh, config.batch_size)
  settings, built = config.sampling, module(config)
  shapes = abstract.transformer(built)
  places = rules.shardings(shapes, tables.SANA, mesh)
  params = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(
      x.shape, built.dtype, sharding=place), shapes, places)
  latents, *words = inputs(config, mesh, text)
  args = (built, {'params': params}, latents, tuple(words),
          _words(config, mesh, 1, text),
          time_grid(settings.sampler, settings.steps, settings.shift))
  return Program(
    denoising.denoise, args,
    dict(sampler=settings.sampler, guidance=Guidance(settings.guidance_scale)),
    {'parameters': params, 'batch': args[2:5]})


def inputs(config: ConfigDict, mesh: Mesh, text: int) -> tuple[Any, Any, Any]:
  """Latents [b y x c], text [b m e] and its mask, described."""
  side, channels = config.model.sample_size, module(config).in_channels
  latents = _like(
    mesh, (config.batch_size, side, side, channels), jnp.float32)
  return latents, *_words(config, mesh, config.batch_size, text)


def forward_flops(config: ConfigDict, text: int = encode.LENGTH) -> int:
  """Of the model on one image; a train step takes three times as many."""
  built, like = module(config), jax.ShapeDtypeStruct
  side = config.model.sample_size
  with kernels.prefer(**dict.fromkeys(kernels.OPS, 'xla')):
    shapes = abstract.transformer(built)
  return flops.count(
    lambda *args: Denoiser(built)(*args).velocity(), shapes,
    like((1, side, side, built.in_channels), 'float32'), like((1,), 'float32'),
    Condition(like((1, text, built.caption_channels), built.dtype),
              like((1, text), bool)))


def passes(config: ConfigDict, mode: str) -> int:
  """Forward passes that an image takes, or their worth of them."""
  if mode == 'train':
    return 3
  guided = 2 if config.sampling.guidance_scale > 1 else 1
  return config.sampling.steps * guided


def run_passes(config: ConfigDict, mode: str) -> int:
  """The same with those that remat repeats."""
  again = mode == 'train' and config.model.remat in ('full', 'offload')
  return passes(config, mode) + again


def _words(config, mesh, count, text):
  """Embeddings and mask of `count` captions; one is on every device."""
  width = module(config).caption_channels
  split = count > 1 or config.batch_size == 1
  return (_like(mesh, (count, text, width), jnp.dtype(config.dtype), split),
          _like(mesh, (count, text), jnp.bool_, split))


def _like(mesh, shape, dtype, split=True):
  spec = batch_spec(mesh) if split else jax.P()
  return jax.ShapeDtypeStruct(
    shape, dtype, sharding=NamedSharding(mesh, spec))
