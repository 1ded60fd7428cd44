"""Parity of SANA-Sprint's sampling with diffusers.

diffusers draws the noise of its steps from one generator; here it is given
sana_jax's, which has a key for each image. Errors of a pipeline are the larger
of those of the final latents and of the images.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import diffusers
from diffusers.pipelines.sana import pipeline_sana_sprint_img2img
from diffusers.schedulers import scheduling_scm
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import torch

from sana_jax.diffusion import samplers, time_grids
from sana_jax.diffusion.guidance import guide
from sana_jax.diffusion.paths import Flow, Prediction, TrigFlow
from sana_jax.diffusion.samplers.base import call_keys
from sana_jax.diffusion.samplers.scm import fresh_noise
from sana_jax.inference import randomness
from sana_jax.tools.parity import pipelines
from sana_jax.tools.parity.ledger import Case, MODULE, PIPELINE, relative_error
from sana_jax.tools.parity.pipelines import PROMPTS

SIGMA = 0.5
# Angles, with the 0 that diffusers needs.
_CUSTOM = ((1.5, 0.9, 0.2, 0.0), (1.5708, 0.0), (1.1, 1.0, 0.05, 0.01, 0.0))
_STEPS = range(1, 9)


class Run(NamedTuple):
  """Request to both pipelines; more of sana_jax's if theirs is other."""

  what: str
  steps: int = 2
  images: int = 1
  guidance: float = 4.5
  middle: float | None = None
  strength: float | None = None  # With an image.
  times: tuple[float, ...] | None = None  # Those of the same run.
  size: tuple[int, int] = (32, 64)
  transformer: dict[str, Any] = {}


_RUNS = (
  Run('1 step', 1),
  Run('2 steps, 2 images', 2, 2),
  Run('2 steps, the second at 1.0', 2, middle=1.0),
  Run('4 steps, guidance 2', 4, guidance=2.0),
  Run('timestep_scale 1 in the config', transformer=dict(timestep_scale=1.0)),
  Run('an image at strength 0.5', 2, strength=0.5, times=(1.3,)),
  Run(
    'an image at strength 0.5 of 4 steps',
    4,
    2,
    strength=0.5,
    times=(1.5708 / 2, 1.5708 / 4),
  ),
  Run('an image at strength 0.25 of 4 steps', 4, strength=0.25),
)


def cases() -> list[Case]:
  """Cases of the scheduler, of the conversion of a flow, and of pipelines."""
  case = functools.partial(
    Case, 'sprint', size='1 to 8 steps and 3 lists', dtype='float32'
  )
  exact = functools.partial(
    Case, 'sprint', size='9 angles', dtype='float64', bound=1e-6
  )
  return [
    case('SCM: angles', bound=1e-6, measure=_angles),
    case('SCM', bound=MODULE, measure=_trajectories),
    exact("Sprint's F from a flow's v", measure=_conversion),
    exact(
      "DDIM on the converted flow, against the flow's Euler steps",
      measure=_ddim,
      against='closed form',
    ),
    *(
      Case(
        'sprint',
        run.what,
        'tiny',
        'float32',
        PIPELINE,
        functools.partial(_pipeline, run),
      )
      for run in _RUNS
    ),
  ]


def _grids():
  """(grid, diffusers' scheduler at the same angles)."""
  for steps in _STEPS:
    scheduler = diffusers.SCMScheduler()
    middle = time_grids.MIDDLE_ANGLE if steps == 2 else None
    scheduler.set_timesteps(steps, intermediate_timesteps=middle)
    yield time_grids.scm_grid(time_grids.scm_times(steps)), scheduler
  for times in _CUSTOM:
    scheduler = diffusers.SCMScheduler()
    scheduler.set_timesteps(
      len(times) - 1,
      list(times),
      max_timesteps=None,
      intermediate_timesteps=None,
    )
    yield time_grids.scm_grid(times), scheduler


def _angles(seed):
  del seed
  return max(
    relative_error(grid.times, scheduler.timesteps.numpy())
    for grid, scheduler in _grids()
  )


def _toy(sin, x, t):
  """Toy F; the sine distinguishes angles."""
  return 0.3 * x + sin(2 * x) + 0.5 * sin(3 * t)


def _trajectories(seed):
  noise = np.random.default_rng(seed).normal(size=(2, 4, 4, 3))
  noise = noise.astype(np.float32)
  keys = jax.random.split(jax.random.key(seed), len(noise))
  predict = lambda x, t, timestep: Prediction(
    x, t, SIGMA * _toy(jnp.sin, x, t), TrigFlow(SIGMA)
  )
  # One program for all steps of all grids.
  advance = jax.jit(
    functools.partial(samplers.advance, samplers.Scm(), predict)
  )
  worst = 0.0
  for grid, scheduler in _grids():
    carry, steps = samplers.begin(samplers.Scm(), noise, grid, keys)
    for k in range(len(grid.timesteps)):
      now = jax.tree.map(lambda x, k=k: x[k : k + 1], steps)
      carry = advance(carry, now, keys)
    got = samplers.finish(carry, grid)
    x = SIGMA * torch.from_numpy(noise)
    with steps_noise(keys, lambda z: z):
      for t in scheduler.timesteps[:-1]:
        f = SIGMA * _toy(torch.sin, x, t)
        x, data = scheduler.step(f, t, x, return_dict=False)
    worst = max(worst, relative_error(got, (data / SIGMA).numpy()))
  return worst


@contextlib.contextmanager
def steps_noise(keys, layout=lambda z: z.transpose(0, 3, 1, 2)):
  """Gives diffusers' SCMScheduler the noise of sana_jax's steps.

  Args:
    keys: one for each image.
    layout: from channels last to the scheduler's.
  """
  plain, calls = scheduling_scm.randn_tensor, iter(range(1, 1000))

  def draw(shape, **how):
    del how
    like = np.zeros(shape, np.float32)
    if layout(like).shape != tuple(shape):
      like = like.transpose(0, 2, 3, 1)
    noise = fresh_noise(call_keys(keys, next(calls)), like)
    return torch.from_numpy(layout(np.asarray(noise)).copy())

  scheduling_scm.randn_tensor = draw
  try:
    yield
  finally:
    scheduling_scm.randn_tensor = plain


def _conversion(seed):
  """SanaSprintPipeline's lines about a prediction, in float64."""
  rng = np.random.default_rng(seed)
  x, v = (torch.from_numpy(rng.normal(size=(9, 4, 3))) for _ in range(2))
  s = torch.linspace(0.02, 1.5708, 9, dtype=torch.float64)
  t = (torch.sin(s) / (torch.cos(s) + torch.sin(s))).view(-1, 1, 1)
  size = torch.sqrt(t**2 + (1 - t) ** 2)
  inside = x / SIGMA * size
  f = ((1 - 2 * t) * inside + (1 - 2 * t + 2 * t**2) * v) / size
  with jax.enable_x64(True):
    path = TrigFlow(SIGMA)
    flow_x, flow_t = path.to_flow(
      jnp.asarray(x.numpy()), jnp.asarray(s.numpy())
    )
    got = path.velocity_from_flow(jnp.asarray(v.numpy()), flow_x, flow_t)
    return max(
      relative_error(flow_x, inside.numpy()),
      relative_error(flow_t, t.flatten().numpy()),
      relative_error(got, SIGMA * f.numpy()),
    )


class _Ddim:
  """Moves along the arc through the predicted data and noise."""

  def init(self, x, rng):
    return samplers.Euler.Carry(x)

  def step(self, carry, prediction, at, rng):
    path = prediction.path
    return samplers.Euler.Carry(
      path.interpolate(prediction.data(), prediction.noise(), at.s)
    )


def _ddim(seed):
  """Guided by CFG, from pure noise."""
  rng = np.random.default_rng(seed)
  times = np.append(np.linspace(1, 0.02, 9), 0)
  with jax.enable_x64(True):
    noise, condition = (jnp.asarray(rng.normal(size=(2, 5))) for _ in range(2))

    def sample(sampler, path):
      own = path.time(1000 * times)
      grid = time_grids.TimeGrid(own, 1000 * times[:-1], path)

      def model(x, t, condition, timestep):
        flow_x, flow_t = path.to_flow(x, t)
        v = _toy(jnp.sin, flow_x, timestep[:, None] / 1000) * condition
        return Prediction(
          x, t, path.velocity_from_flow(v, flow_x, flow_t), path
        )

      predict = guide(model, condition, 0 * condition, 3.0)
      return samplers.sample(sampler, predict, noise, grid)

    return relative_error(
      sample(_Ddim(), TrigFlow(SIGMA)), sample(samplers.Euler(), Flow())
    )


def _pipeline(run: Run, seed):
  theirs = pipelines.make_sprint(seed, run.transformer)
  ours = pipelines.saved(theirs, encoder=run.strength is not None)
  seeds, numbers = (np.full(run.images, 3), np.arange(run.images))
  shape = *(side // ours.autoencoder.module.spec.side for side in run.size), 4
  noise = np.array(randomness.draw_noise(seeds, numbers, shape))
  image = np.random.default_rng(seed).integers(0, 256, (*run.size, 3), np.uint8)
  keys = randomness.draw_keys(seeds, numbers)
  want = [
    _draw_theirs(theirs, run, kind, noise, image, keys)
    for kind in ('latent', 'np')
  ]
  draw = functools.partial(
    ours.draw,
    PROMPTS[0],
    height=run.size[0],
    width=run.size[1],
    num_images=run.images,
    seed=3,
    guidance_scale=run.guidance,
    use_resolution_binning=False,
    **_ours(run, image),
  )
  return max(
    relative_error(draw(output_type=kind), x)
    for kind, x in zip(('latent', 'float'), want)
  )


def _ours(run, image):
  """Arguments of sana_jax for the steps of a run."""
  if run.strength is None:
    return (
      dict(steps=run.steps)
      if run.middle is None
      else dict(times=(time_grids.NOISE_ANGLE, run.middle))
    )
  if run.times is not None:
    return dict(image=image, times=run.times)
  steps = round(run.steps * run.strength)
  return dict(image=image, strength=run.strength, steps=steps)


@torch.no_grad()
def _draw_theirs(theirs, run, kind, noise, image, keys):
  how = dict(
    num_inference_steps=run.steps,
    height=run.size[0],
    width=run.size[1],
    num_images_per_prompt=run.images,
    guidance_scale=run.guidance,
    intermediate_timesteps=(run.middle or 1.3) if run.steps == 2 else None,
    use_resolution_binning=False,
    output_type=kind,
  )
  start = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
  with pipelines.quiet(), steps_noise(keys):
    if run.strength is None:
      out = theirs(PROMPTS[0], latents=start, **how).images
    else:
      theirs = diffusers.SanaSprintImg2ImgPipeline(**theirs.components)
      theirs.set_progress_bar_config(disable=True)
      with _first_noise(start):
        out = theirs(
          PROMPTS[0],
          image=Image.fromarray(image),
          strength=run.strength,
          **how,
        ).images
  return np.asarray(out if kind == 'np' else out.permute(0, 2, 3, 1))


@contextlib.contextmanager
def _first_noise(start):
  """Gives diffusers' img2img pipeline its noise."""
  plain = pipeline_sana_sprint_img2img.randn_tensor
  pipeline_sana_sprint_img2img.randn_tensor = lambda *args, **how: start
  try:
    yield
  finally:
    pipeline_sana_sprint_img2img.randn_tensor = plain
