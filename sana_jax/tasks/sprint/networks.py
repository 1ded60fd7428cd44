"""Teacher and student of a distillation, from model folders."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax.errors import UserError
from sana_jax.inference.few_steps import TIMESTEP_SCALE
from sana_jax.models.sana import Sana
from sana_jax.tasks import lora
from sana_jax.tasks.sprint import checks
from sana_jax.tasks.sprint.checks import NONE
from sana_jax.training.task import Start
from sana_jax.typing import Params
from sana_jax.weights import additions, hub
from sana_jax.weights import folder as folders
from sana_jax.weights.folder import Model


def teacher_name(config: ConfigDict) -> str:
  """Name of the teacher's folder; NONE without one.

  Raises UserError if the config names none.
  """
  name = config.sprint.teacher or config.init_from
  if not name:
    raise UserError(
      'config.sprint.teacher is empty; set it, or config.init_from, to a model '
      f'folder, or to {NONE} to train without a teacher.',
      key='sprint.teacher',
      value='',
      allowed='model folders',
    )
  return name


def expected_teacher(config: ConfigDict, student: Sana) -> Sana | None:
  """The teacher's module, without reading its folder; None without one."""
  if config.sprint.teacher == NONE:
    return None
  return student.clone(guidance_embeds=False)


def load_teacher(
  config: ConfigDict, student: Sana, mesh: Mesh | None
) -> Model | None:
  """The teacher in config.dtype, sharded like the student; None without one.

  Raises UserError if it is not named, or of another size than the student.
  """
  name = teacher_name(config)
  if name == NONE:
    return None
  folder = hub.find(name)
  key = f'config.{"sprint.teacher" if config.sprint.teacher else "init_from"}'
  module = folders.describe(folder, 'transformer', jnp.dtype(config.dtype))
  if module.guidance_embeds:
    raise UserError(
      f'{key}={name!r} has its guidance scale as an input: it is a Sprint, not '
      'a teacher; name the model that it was distilled from as '
      f'config.sprint.teacher, or {NONE}.',
      key='sprint.teacher',
      value=name,
      allowed='models of a flow',
    )
  _check(module, student, key, name)
  model = folders.load(folder, 'transformer', config.dtype, mesh)
  return Model(
    model.module.clone(remat=student.remat, unroll=student.unroll),
    model.variables,
  )


def _check(module, student, key, name):
  """Raises UserError unless the student has the model's parts, or more."""
  try:
    additions.check(module, student)
  except UserError as e:
    raise UserError(
      f'{key}={name!r}: {e}',
      key=f'model.{e.key}',
      value=e.value,
      allowed=e.allowed,
    ) from e


def _student_of(module):
  """The folder's module; a Sprint has dense time, whatever its config has."""
  if module.guidance_embeds:
    return module.clone(timestep_scale=TIMESTEP_SCALE)
  return module


def start(config: ConfigDict, student: Sana) -> Start:
  """Start from a Sprint or its teacher, to which the parts of one are added."""

  def check(name: str) -> None:
    module = _student_of(folders.describe(hub.find(name), 'transformer'))
    _check(module, student, 'config.init_from', name)
    checks.check_start(config, name, additions.parts(module, student))

  def load(name: str, mesh: Mesh) -> Params:
    dtype = lora.base_dtype(config)
    found = folders.load(hub.find(name), 'transformer', dtype, mesh)
    return additions.adapted(
      found.variables['params'],
      _student_of(found.module),
      student,
      jax.random.key(config.seed),
    )

  return Start(check, load)
