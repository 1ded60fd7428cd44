"""The train step of a published size, on random data: timed, or compiled.

It is the step that `sana-jax train` runs: flow matching on cached latents and
text, the optimizer, the average of the weights, with all that is checked.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from sana_jax import config as configs
from sana_jax import kernels
from sana_jax.benchmark import compiled, flops
from sana_jax.errors import UserError
from sana_jax.models import remat
from sana_jax.models.sana import Sana
from sana_jax.optim import factory
from sana_jax.sharding import tables
from sana_jax.sharding.mesh import batch_spec, check_batch
from sana_jax.text import encode
from sana_jax.training import state as states
from sana_jax.training import step as steps
from sana_jax.training.tasks.sana import flow_loss
from sana_jax.typing import Array
from sana_jax.weights import folder

_COMPRESSION = 32  # Of the autoencoders of every published size.


@dataclasses.dataclass(frozen=True)
class Request:
  """A step of a published size.

  Attributes:
    model: of config.SANA_SIZES.
    batch: images, over all devices.
    remat: what the backward pass computes again, see models/remat.py.
    accumulate: parts that a batch is computed in.
    text: tokens of a caption.
    depth: blocks; 0 for the model's own.
  """

  model: str
  size: int
  batch: int
  dtype: str = 'bfloat16'
  optimizer: str = 'came'
  remat: str = 'full'
  accumulate: int = 1
  text: int = encode.LENGTH
  depth: int = 0

  def module(self) -> Sana:
    """The transformer."""
    fields = dict(configs.SANA_SIZES[self.model])
    if self.depth:
      fields['depth'] = self.depth
    return Sana(**fields, remat=self.remat, dtype=jnp.dtype(self.dtype))

  def config(self):
    """A training config with this optimizer."""
    config = configs.train('sana')
    config.optimizer.name = self.optimizer
    return config


def request(model: str, size: int | None, **options) -> Request:
  """Checked; a square of the model's own size by default."""
  if model not in configs.SANA_SIZES:
    raise UserError(f'--model={model} is no size; allowed are '
                    f'{", ".join(configs.SANA_SIZES)}.')
  own = configs.SANA_SIZES[model].get('sample_size', 32)
  size = size or own * _COMPRESSION
  if size % _COMPRESSION:
    raise UserError(f'--size={size} must be a multiple of {_COMPRESSION}, the '
                    "autoencoder's compression.")
  asked = Request(model, size, **options)
  if asked.remat not in remat.NAMES:
    raise UserError(f'--remat={asked.remat} is unknown; allowed are '
                    f'{", ".join(remat.NAMES)}.')
  factory.make(asked.config().optimizer, 1)  # Raises for an unknown name.
  return asked


class _Task:
  """What plan and step need of a task."""

  rules = tables.SANA

  def __init__(self, request):
    module = request.module()
    self.init = folder.transformer_init(module)
    self.loss = functools.partial(flow_loss, module, request.config().flow)


class Step(NamedTuple):
  """A step, and arguments that are only described: nothing is allocated."""

  jitted: Any
  init: Callable
  args: tuple[Any, ...]  # State, frozen, batch, rng.


def make(request: Request, mesh: Mesh) -> Step:
  """The step, for a mesh whose devices need not be here."""
  check_batch(mesh, request.batch, request.accumulate)
  config, task = request.config(), _Task(request)
  tx = factory.make(config.optimizer, config.num_steps)
  init, shapes = states.plan(task, tx, mesh)
  jitted = steps.jit_step(
    shapes, mesh, task=task, tx=tx, ema_decay=config.ema_decay,
    accumulate=request.accumulate)
  return Step(jitted, init, (shapes, *_inputs(request, mesh)))


def compile_step(
  request: Request, mesh: Mesh, platform: str | None = None
) -> jax.stages.Compiled:
  """The program; UserError where it does not fit."""
  with kernels.platform(platform):
    step = make(request, mesh)
    with jax.set_mesh(mesh):
      return compiled.compile_lowered(
        step.jitted.lower(*step.args), platform,
        'take a smaller batch, remat, or more devices')


def measure(
  request: Request, mesh: Mesh, sides: Mapping[str, Mapping[str, str]],
  repeats: int, count: int = 3,
) -> dict[str, list[float]]:
  """By side (names of backends for its ops), seconds of a step in each round.

  All sides go on from one state, in turn; a round takes `count` steps.
  """
  step, programs = make(request, mesh), {}
  with jax.set_mesh(mesh):
    for side, backends in sides.items():
      with kernels.prefer(**backends):
        # Another function: jit would take what it has traced before.
        programs[side] = make(request, mesh).jitted.lower(*step.args).compile()
    state = step.init(jax.random.key(0))
    rest = jax.tree.map(filled, step.args[1:])
    seconds = {side: [] for side in sides}
    for _ in range(repeats + 1):  # The first is a warm-up.
      for side, program in programs.items():
        start = time.perf_counter()
        for _ in range(count):
          state, metrics = program(state, *rest)
        jax.block_until_ready(metrics)
        seconds[side].append((time.perf_counter() - start) / count)
  if int(state.skipped):
    raise UserError('The loss was not finite; nothing was measured.')
  return {side: found[1:] for side, found in seconds.items()}


def filled(x: jax.ShapeDtypeStruct) -> Array:
  """An array as described, of small numbers."""
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    value = jax.random.key(1)
  elif x.dtype == bool:
    value = np.ones(x.shape, bool)
  else:
    value = np.random.default_rng(0).standard_normal(
      x.shape, np.float32).astype(x.dtype)
  return jax.device_put(value, x.sharding)


def _inputs(request, mesh):
  """Frozen arrays, a batch and a key, described."""
  module, b = request.module(), request.batch
  side = request.size // _COMPRESSION
  everywhere = NamedSharding(mesh, jax.P())
  split = NamedSharding(mesh, batch_spec(mesh))
  like = lambda shape, dtype, place: jax.ShapeDtypeStruct(
    shape, dtype, sharding=place)
  text = (request.text, module.caption_channels)
  key = jax.eval_shape(lambda: jax.random.key(0))
  return (
    {'null_text': like((1, *text), request.dtype, everywhere),
     'null_mask': like((1, request.text), bool, everywhere)},
    {'latents': like((b, side, side, module.in_channels), 'float32', split),
     'text': like((b, *text), request.dtype, split),
     'mask': like((b, request.text), bool, split)},
    like(key.shape, key.dtype, everywhere))


def forward_flops(request: Request) -> int:
  """Of one forward pass over the batch; a step takes three times as many."""
  module, b = request.module(), request.batch
  side = request.size // _COMPRESSION
  like = jax.ShapeDtypeStruct
  with kernels.prefer(**dict.fromkeys(kernels.OPS, 'xla')):
    shapes = folder.transformer_shapes(module)
  return flops.count(
    module.apply, {'params': shapes},
    like((b, side, side, module.in_channels), request.dtype),
    like((b,), 'float32'),
    like((b, request.text, module.caption_channels), request.dtype),
    like((b, request.text), bool))
