"""Settings of a distillation that exclude each other."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from sana_jax.errors import UserError
from sana_jax.inference.few_steps import TIMESTEP_SCALE
from sana_jax.models.sana import Sana

NONE = 'none'  # config.sprint.teacher of a student without one.


def check(config: ConfigDict, student: Sana) -> None:
  """Raises UserError for the first of them."""
  _check_student(student)
  if config.sprint.weighting == 'published' and not student.logvar:
    raise UserError(
      'config.sprint.weighting=published needs the log-variance head: set '
      'config.model.logvar=True.',
      key='model.logvar',
      value=False,
      allowed=(True,),
    )
  if config.sprint.teacher == NONE:
    _check_without_teacher(config)
  if config.ladd.weight:
    _check_without_adapters(config)
    _check_blocks(config, student)


def check_start(config: ConfigDict, name: str, added: Sequence[str]) -> None:
  """Raises UserError for adapters on a model to which parts are added.

  Their file would not have these parts.
  """
  if config.lora.rank and added:
    raise UserError(
      f'config.init_from={name!r} must be a Sprint with '
      f'config.lora.rank={config.lora.rank}, as an adapter file has no '
      f'{" or ".join(added)}.',
      key='init_from',
      value=name,
      allowed='Sprints',
    )


def _check_without_adapters(config):
  if config.lora.rank:
    raise UserError(
      f'config.ladd.weight={config.ladd.weight:g} must be 0 with '
      f'config.lora.rank={config.lora.rank}: only the adapters train, and '
      'not the discriminator.',
      key='ladd.weight',
      value=config.ladd.weight,
      allowed=(0,),
    )


def _check_student(student):
  """A Sprint has its guidance scale as an input, and times in [0, 1]."""
  for field, allowed in (
    ('guidance_embeds', True),
    ('timestep_scale', TIMESTEP_SCALE),
  ):
    if (value := getattr(student, field)) != allowed:
      raise UserError(
        f'config.model.{field}={value!r} must be {allowed!r} for a Sprint.',
        key=f'model.{field}',
        value=value,
        allowed=(allowed,),
      )


def _check_without_teacher(config):
  settings = config.sprint
  if settings.loss != 'discrete' or not settings.target_decay:
    raise UserError(
      f'config.sprint.teacher={NONE} needs config.sprint.loss=discrete and '
      'config.sprint.target_decay, such as 0.99: the student then learns from '
      'an EMA of itself.',
      key='sprint.target_decay',
      value=settings.target_decay,
      allowed='above 0, with the discrete loss',
    )
  if config.ladd.weight:
    raise UserError(
      f'config.ladd.weight={config.ladd.weight:g} needs a teacher, whose '
      f'features are scored; config.sprint.teacher is {NONE}.',
      key='ladd.weight',
      value=config.ladd.weight,
      allowed=(0,),
    )


def _check_blocks(config, student):
  blocks = tuple(config.ladd.blocks)
  if max(blocks) >= student.depth or len(set(blocks)) < len(blocks):
    raise UserError(
      f'config.ladd.blocks={blocks} must be different blocks of 0 to '
      f'{student.depth - 1}.',
      key='ladd.blocks',
      value=blocks,
      allowed=f'different ones of 0 to {student.depth - 1}',
    )
