"""Programs to plan, as shapes made from a config.

The step of `sana-jax train` ('sana' on cached latents and text), with the
optimizers, EMA and checks; or the sampling loop of `sana-jax sample`, with
guidance.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from ml_collections import ConfigDict

from sana_jax import kernels, tasks
from sana_jax.analysis import flops
from sana_jax.diffusion.guidance import Guidance
from sana_jax.errors import UserError
from sana_jax.inference import denoising
from sana_jax.inference.schedulers import time_grid
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.objectives.base import busiest
from sana_jax.sharding import rules, tables
from sana_jax.sharding.mesh import batch_spec, check_batch, make_mesh
from sana_jax.tasks import common
from sana_jax.training import optimizers, throughput
from sana_jax.training import state as states
from sana_jax.training import step as steps
from sana_jax.training.step import passes
from sana_jax.typing import PyTree

SAMPLED = ('sana', 'sprint')  # Tasks whose model is sampled.


class Program(NamedTuple):
  """A jitted function and the shapes of its arguments.

  Attributes:
    parts: the arguments by kind, for a table of their memory.
    init: makes the first argument, or None.
  """

  jitted: Any
  args: tuple[Any, ...]
  options: dict[str, Any]
  parts: dict[str, PyTree]
  init: Any = None

  def lower(self):
    return self.jitted.lower(*self.args, **self.options)


def module(config: ConfigDict) -> Sana:
  """The transformer; raises UserError for a task without one."""
  if config.task not in SAMPLED:
    raise UserError(
      f'config.task={config.task!r} has no sampler to plan; only '
      f'{" and ".join(map(repr, SAMPLED))} have one{_instead(config)}.',
      key='task',
      value=config.task,
      allowed=SAMPLED,
    )
  return common.build(Sana, config)


def _instead(config):
  """Config to plan in place of one that tunes adapters or a ControlNet."""
  if config.task not in ('dpo', 'nft', 'controlnet'):
    return ''
  return "; plan a config of the task 'sana' with the same config.model"


def make(
  config: ConfigDict, mesh: Mesh, mode: str = 'train', text: int | None = None
) -> Program:
  """Program of `mode` for a mesh, whose devices need not be attached."""
  return {'train': train, 'sample': sample}[mode](config, mesh, text)


def plan(config: ConfigDict, mesh: Mesh | AbstractMesh) -> states.Plan:
  """Shardings of a run of the config."""
  objective = tasks.objective(config)
  return states.plan(
    objective,
    optimizers.make(config, objective),
    mesh,
    average=config.ema_decay > 0,
    param_dtype=config.param_dtype,
    trainable=config.trainable,
  )


def train(config: ConfigDict, mesh: Mesh, text: int | None) -> Program:
  """Train step that updates the most networks; captions have `text` tokens."""
  check_batch(mesh, config.batch_size, config.accumulate_steps)
  config = with_text(config, text)
  objective = tasks.objective(config)
  planned = plan(config, mesh)
  state = planned.state
  jitted = steps.jit_step(
    state,
    mesh,
    players=busiest(objective.players),
    **steps.options(config, optimizers.make(config, objective)),
  )
  inputs = _frozen(mesh, objective)
  frozen = states.Frozen(inputs, planned.base)
  batch = _placed(mesh, objective.batch(config.batch_size))
  key = jax.eval_shape(lambda: jax.random.key(0))
  rng = _like(mesh, key.shape, key.dtype, False)
  parts = {
    'parameters': (state.params, state.extra, planned.base),
    'average': state.ema,
    'optimizer': state.players,
    'batch': (inputs, batch),
  }
  return Program(jitted, (state, frozen, batch, rng), {}, parts, planned.init)


def with_text(config: ConfigDict, text: int | None) -> ConfigDict:
  """The config with captions of `text` tokens, if it has captions."""
  if text is None or 'inputs' not in config:
    return config
  config = config.copy_and_resolve_references().unlock()
  config.inputs.text_length = text
  return config.lock()


def sample(config: ConfigDict, mesh: Mesh, text: int | None) -> Program:
  """All sampling steps of a batch, from encoded text to latents."""
  check_batch(mesh, config.batch_size)
  config = with_text(config, text)
  built, settings = module(config), config.get('sampling')
  shapes = abstract.transformer(built)
  params = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, built.dtype, sharding=place),
    shapes,
    rules.shardings(shapes, tables.SANA, mesh),
  )
  objective = tasks.objective(config)
  batch = _placed(mesh, objective.batch(config.batch_size))
  one = lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype)
  null = {k: one(objective.frozen()[k]) for k in ('null_text', 'null_mask')}
  null = _placed(mesh, null, config.batch_size == 1)
  args = (
    built,
    {'params': params},
    batch['latents'],
    (batch['text'], batch['mask']),
    (null['null_text'], null['null_mask']),
    time_grid(settings.sampler, settings.steps, settings.shift),
  )
  keys = jax.eval_shape(
    lambda: jax.random.split(jax.random.key(0), config.batch_size)
  )
  how = dict(
    sampler=settings.sampler,
    guidance=Guidance(settings.guidance_scale),
    rng=_like(mesh, keys.shape, keys.dtype),
  )
  parts = {'parameters': params, 'batch': args[2:5]}
  return Program(denoising.denoise, args, how, parts)


def forward_flops(config: ConfigDict, text: int | None = None) -> int:
  """FLOPs of the loss of one example, without its gradient."""
  objective = tasks.objective(with_text(config, text))
  with kernels.prefer(**dict.fromkeys(kernels.OPS, 'xla')):
    params = jax.eval_shape(objective.init, jax.random.key(0))
  state = params, objective.frozen(), objective.batch(1)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
  step = jax.ShapeDtypeStruct((), jnp.int32)
  return flops.count(objective.loss, *state, keys, step)


def model_flops(config: ConfigDict, mode: str = 'train') -> int:
  """FLOPs of a batch's train step, or of all its sampling steps.

  Those that `sana-jax train` counts: each player's loss and its gradient,
  frozen parts without a gradient, recomputation by remat left out.
  """
  if mode == 'sample':
    embedded = module(config).guidance_embeds
    guided = 2 if config.sampling.guidance_scale > 1 and not embedded else 1
    forward = config.batch_size * network_flops(config)
    return config.sampling.steps * guided * forward
  objective = tasks.objective(config)
  inputs, batch = objective.frozen(), objective.batch(config.batch_size)
  with kernels.prefer(**dict.fromkeys(kernels.OPS, 'xla')):
    planned = plan(config, make_mesh({}, jax.devices()[:1]))
  return sum(
    throughput.pass_flops(together, planned, inputs, batch)
    for together in passes(busiest(objective.players))
  )


def network_flops(config: ConfigDict) -> int:
  """FLOPs of one evaluation of the transformer for one image.

  The embedding of a guidance scale, which costs next to nothing, is left out.
  """
  built = module(config).clone(guidance_embeds=False)
  batch = tasks.objective(config).batch(1)
  time = jax.ShapeDtypeStruct((1,), jnp.float32)
  evaluate = lambda params, *args: built.apply({'params': params}, *args)
  with kernels.prefer(**dict.fromkeys(kernels.OPS, 'xla')):
    return flops.count(
      evaluate,
      abstract.transformer(built),
      *(batch['latents'], time, batch['text'], batch['mask']),
    )


def run_flops(config: ConfigDict, mode: str = 'train') -> int:
  """FLOPs of a batch with recomputation by remat."""
  again = mode == 'train' and config.model.get('remat') in ('full', 'offload')
  forward = network_flops if config.task in SAMPLED else forward_flops
  recomputed = config.batch_size * forward(config) if again else 0
  return model_flops(config, mode) + recomputed


def _frozen(mesh, objective):
  """Shapes of the frozen arrays, sharded by their tables, or replicated."""
  return {
    part: states.with_shardings(x, rules.shardings(x, table, mesh))
    if (table := objective.frozen_rules.get(part))
    else _placed(mesh, x, False)
    for part, x in objective.frozen().items()
  }


def _placed(mesh, tree, split=True):
  """Shapes of a tree's arrays, sharded over the mesh along their first axis."""
  return jax.tree.map(lambda x: _like(mesh, x.shape, x.dtype, split), tree)


def _like(mesh, shape, dtype, split=True):
  spec = batch_spec(mesh) if split else jax.P()
  return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
