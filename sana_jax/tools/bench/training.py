"""The train step of a published size, on random data: timed, or compiled.

It is the step that `sana-jax train` runs: flow matching on cached latents and
text, the optimizer, the average of the weights, with all that is checked.
"""

from collections.abc import Mapping
import dataclasses

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax import config as configs
from sana_jax import kernels
from sana_jax.errors import UserError
from sana_jax.models import remat
from sana_jax.optim import factory
from sana_jax.text import encode
from sana_jax.tools.bench import compiled, timing
from sana_jax.tools.plan import steps

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

  def config(self) -> ConfigDict:
    """A training config of this model, batch and optimizer."""
    config = configs.train('sana').unlock()
    config.model.update(configs.SANA_SIZES[self.model], remat=self.remat)
    if self.depth:
      config.model.depth = self.depth
    config.model.sample_size = self.size // _COMPRESSION
    config.batch_size, config.dtype = self.batch, self.dtype
    config.accumulate_steps = self.accumulate
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


def make(request: Request, mesh: Mesh) -> steps.Program:
  """The step, for a mesh whose devices need not be here."""
  return steps.make(request.config(), mesh, text=request.text)


def compile_step(
  request: Request, mesh: Mesh, platform: str | None = None
) -> jax.stages.Compiled:
  """The program; UserError where it does not fit."""
  with kernels.platform(platform):
    step = make(request, mesh)
    with jax.set_mesh(mesh):
      return compiled.compile_lowered(
        step.lower(), platform,
        'take a smaller batch, remat, or more devices')


def measure(
  request: Request, mesh: Mesh, sides: Mapping[str, Mapping[str, str]],
  repeats: int, count: int = 3,
) -> dict[str, list[float]]:
  """By side (names of backends for its ops), seconds of a step in each round.

  All sides go on from one state, in turn; a round takes `count` steps.
  """
  step = make(request, mesh)
  with jax.set_mesh(mesh):
    programs = {}
    for side, backends in sides.items():
      with kernels.prefer(**backends):
        programs[side], _ = timing.compiled(step)
    state, rest = timing.arguments(step)
    seconds = {side: [] for side in sides}
    for _ in range(repeats + 1):  # The first is a warm-up.
      for side, program in programs.items():
        state, moments = timing.run(program, state, rest, count)
        seconds[side].append(timing.mean(moments))
  timing.check(state)
  return {side: found[1:] for side, found in seconds.items()}


def forward_flops(request: Request) -> int:
  """Of one forward pass over the batch; a step takes three times as many."""
  return request.batch * steps.forward_flops(request.config(), request.text)
