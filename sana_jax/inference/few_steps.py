"""Calls of one to four steps: SANA-Sprint's defaults, angles and checks.

A Sprint embeds the guidance scale: one evaluation a step, without an
unconditional half, so that a negative prompt has no effect. Its sampler, scm,
works with every model, and Sprint with every sampler.
"""

from collections.abc import Mapping
from typing import Any

from absl import logging
import flax.linen as nn

from sana_jax import fields
from sana_jax.diffusion.guidance import Guidance
from sana_jax.diffusion.time_grids import dpm_grid, scm_grid, scm_times
from sana_jax.errors import UserError
from sana_jax.inference import editing
from sana_jax.printable import counted
from sana_jax.weights.folder import Model

SCM = 'scm'
# The network's times of a Sprint lie in [0, 1]: diffusers' SanaSprintPipeline
# passes them so, whatever `timestep_scale` its config has.
TIMESTEP_SCALE = 0.001


def resolved(
  given: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
  """`steps`, `times` and `strength` of a call.

  Times are None for other samplers than scm, and the strength where times are
  given, or there is no image. The angles of an image start at strength * pi/2:
  the default angles times the strength.

  Args:
    given: arguments, None where the caller gave none.
    values: the same with the model's own steps and sampler.

  Raises:
    UserError: for times that are invalid, or arguments that exclude another.
  """
  times, strength = given.get('times'), editing.strength_of(given)
  if values['sampler'] != SCM:
    _refuse_unless_scm(times, values['sampler'])
    return {'steps': values['steps'], 'times': None, 'strength': strength}
  if times is not None:
    _check_no_strength(given)
    strength = None
  elif strength == 0:
    return {'steps': values['steps'], 'times': None, 'strength': strength}
  else:
    times = scm_times(values['steps'])
    if strength is not None:
      times = [strength * t for t in times]
  steps = len(scm_grid(times).timesteps)
  if given.get('steps') not in (None, steps):
    raise UserError(
      f'times has the angles of {counted(steps, "step")}, and steps is '
      f'{fields.shown(given["steps"])}; give one of the two.',
      key='steps',
      value=given['steps'],
      allowed=(steps,),
    )
  return {'steps': steps, 'times': times, 'strength': strength}


def evaluations(sampler: str, steps: int, strength: float | int | None) -> int:
  """Steps that a call takes: scm's are all, closer to the image."""
  if not strength:
    return steps if strength is None else 0
  if sampler == SCM:
    return steps
  return len(dpm_grid(steps, 1.0, strength=strength).timesteps)


def _refuse_unless_scm(times, sampler):
  if times is not None:
    raise UserError(
      f'times is given, which the sampler {sampler} does not use; choose '
      f'the sampler {SCM}.',
      key='times',
      allowed=f'with the sampler {SCM}',
    )


def _check_no_strength(given):
  if given.get('strength') is not None:
    raise UserError(
      'strength and times are given; give one of the two: the first of times '
      'is where the image starts.',
      key='strength',
      value=given['strength'],
    )


def is_sprint(module: nn.Module | None) -> bool:
  """Whether a transformer has its guidance scale as an input."""
  return getattr(module, 'guidance_embeds', False)


def sprint(transformer: Model, scheduler: tuple[str, float]) -> tuple:
  """A Sprint's transformer and scheduler, with its time scale and sampler."""
  module = transformer.module.clone(timestep_scale=TIMESTEP_SCALE)
  return transformer._replace(module=module), (SCM, scheduler[1])


def check(pipe, call) -> None:
  """Checks a call of `Pipeline.draw` against the model; logs notes about it.

  Raises:
    UserError: for options of CFG if the network embeds its scale.
  """
  module = pipe.transformer.module
  check_guidance(module, call.guidance)
  logged = pipe.cache.setdefault('notes', set())
  for note in notes(
    module, call.sampler, call.steps, _any_text(call.negative_prompt)
  ):
    if note not in logged:
      logged.add(note)
      logging.warning('%s', note)


def check_guidance(module: nn.Module, guidance: Guidance) -> None:
  """Raises UserError for options of CFG if the network embeds its scale."""
  for name, unused in (('interval', (0.0, 1.0)), ('apg_eta', None)):
    if is_sprint(module) and getattr(guidance, name) != unused:
      raise UserError(
        f'guidance has {name}, an option of classifier-free guidance, and this '
        'model has its guidance scale as an input.',
        key=name,
        value=getattr(guidance, name),
        allowed=unused,
      )


def _any_text(negative):
  return any(negative if isinstance(negative, list | tuple) else [negative])


def notes(
  module: nn.Module, sampler: str, steps: int, has_negative: bool
) -> list[str]:
  """Sentences about a call that works, but not as one might expect."""
  if not is_sprint(module):
    return [
      'The model was not distilled for one step; its picture will be blurred.'
    ] * (steps == 1)
  return [
    'The negative prompt has no effect: this model has its guidance scale as '
    'an input.'
  ] * has_negative + [
    f'The model was distilled for the sampler {SCM}; another needs more steps.'
  ] * (sampler != SCM)
