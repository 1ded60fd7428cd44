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
from sana_jax.diffusion.time_grids import scm_grid, scm_times
from sana_jax.errors import UserError
from sana_jax.printable import counted
from sana_jax.weights.folder import Model

SCM = 'scm'
# The network's times of a Sprint lie in [0, 1]: diffusers' SanaSprintPipeline
# passes them so, whatever `timestep_scale` its config has.
TIMESTEP_SCALE = 0.001
STRENGTH = 0.6  # Of an image that comes without; diffusers' default.
_STRENGTH = {'strength': fields.number(0.01, 1)}
OF_SCM = frozenset(('times', 'image', 'strength'))  # Arguments.


def resolved(
  given: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
  """`steps` and `times` of a call; times are None for other samplers.

  The angles of an image start at strength * pi/2: the default angles times the
  strength.

  Args:
    given: arguments, None where the caller gave none.
    values: the same with the model's own steps and sampler.

  Raises:
    UserError: for times that are invalid, or arguments that exclude another.
  """
  given = {k: given.get(k) for k in ('steps', *OF_SCM)}
  if values['sampler'] != SCM:
    _refuse_unless_scm(given, values['sampler'])
    return {'steps': values['steps'], 'times': None}
  if given['strength'] is not None:
    _check_strength(given)
  times = given['times']
  if times is None:
    times = scm_times(values['steps'])
    if given['image'] is not None:
      strength = fields.plain(given['strength'])
      times = [(strength or STRENGTH) * t for t in times]
  steps = len(scm_grid(times).timesteps)
  if given['steps'] not in (None, steps):
    raise UserError(
      f'times has the angles of {counted(steps, "step")}, and steps is '
      f'{fields.shown(given["steps"])}; give one of the two.',
      key='steps',
      value=given['steps'],
      allowed=(steps,),
    )
  return {'steps': steps, 'times': times}


def _refuse_unless_scm(given, sampler):
  for name in sorted(OF_SCM):
    if given[name] is not None:
      raise UserError(
        f'{name} is given, which the sampler {sampler} does not use; choose '
        f'the sampler {SCM}.',
        key=name,
        allowed=f'with the sampler {SCM}',
      )


def _check_strength(given):
  """Raises UserError if the strength is invalid, or nothing uses it."""
  fields.check(
    'The call', {'strength': fields.plain(given['strength'])}, _STRENGTH
  )
  if given['image'] is None or given['times'] is not None:
    raise UserError(
      'strength is given; it needs an image, and no times: the first of '
      'these is where the image starts.',
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
