"""Distills a Sana into a SANA-Sprint of one to four steps.

The losses are in objectives/sprint.py. Latents and text are those of the task
`sana`; the student starts from config.init_from, and the teacher is the same
model unless config.sprint.teacher names another. With config.lora, the student
is a frozen Sprint with adapters.
"""

import functools
import pathlib

from ml_collections import ConfigDict

from sana_jax.diffusion.denoiser import Denoiser
from sana_jax.diffusion.paths import TrigFlow
from sana_jax.models import abstract
from sana_jax.models.ladd import Heads
from sana_jax.models.sana import Sana
from sana_jax.objectives import sprint
from sana_jax.objectives.base import Objective
from sana_jax.objectives.sprint_networks import Sprint
from sana_jax.registry import Kind
from sana_jax.sharding import tables
from sana_jax.tasks import common, lora
from sana_jax.tasks.lora import Adapted
from sana_jax.tasks.sana import exports, inputs
from sana_jax.tasks.sana.task import check_size, Samples
from sana_jax.tasks.sprint import checks, networks
from sana_jax.training.limits import Limit
from sana_jax.training.task import Exporter, Task
from sana_jax.typing import Params
from sana_jax.weights import folder as folders


def objective(config: ConfigDict) -> Objective:
  """Distillation with config.model, from a teacher of the same size."""
  student = common.build(Sana, config)
  return _objective(config, student, networks.expected_teacher(config, student))


def exporter(config: ConfigDict) -> Exporter:
  """Writes a SANA-Sprint's folder, or the file of its adapters."""
  others = exports.folders_of(config)
  student = common.build(Sana, config, **exports.sizes(others))
  adapters = lora.of(config, student)
  return Exporter(
    _objective(config, student, networks.expected_teacher(config, student)),
    functools.partial(_write, student, config, others)
    if adapters is None
    else functools.partial(lora.write, student, adapters),
    networks.start(config, student),
  )


def open_task(config: ConfigDict, workdir, mesh=None) -> Task:
  """The task with its data and teacher."""
  exported = exporter(config)
  others = exports.folders_of(config)
  check_size(config, folders.describe(others['autoencoder'], 'vae'))
  student = common.build(Sana, config, **exports.sizes(others))
  teacher = networks.load_teacher(config, student, mesh)
  given = inputs.make(config, workdir, mesh)
  samples = Samples(config, student, given)
  return Task(
    'sprint',
    _objective(config, student, teacher and teacher.module, given.encode),
    inputs.data(config, given),
    exported.write,
    given.frozen
    | ({'teacher': teacher.variables['params']} if teacher else {}),
    lambda params, step: samples.draw(sprint.student_of(params), step),
    exported.start,
    models={'teacher': ('sprint.teacher', networks.teacher_name(config))}
    if teacher
    else {},
    limits=_limits(config),
  )


KIND = Kind(
  objective,
  exporter,
  open_task,
  part='transformer',
  adds=('timestep_scale', 'guidance_embeds', 'logvar'),
)


def _parts(config, student, teacher, adapted: Adapted) -> Sprint:
  path, ladd = TrigFlow(), config.ladd
  return Sprint(
    Denoiser(student, path),
    Denoiser(teacher, path) if teacher else None,
    Heads(ladd.norm, ladd.spectral, ladd.virtual_batch, student.dtype),
    config.sprint,
    ladd,
    lora.KEY if config.lora.rank else '',
    adapted.split,
  )


def _objective(config, student, teacher, encode=lambda frozen, batch: batch):
  checks.check(config, student)
  adapted = lora.adapted(config, student, tables.SANA)
  return sprint.objective(
    _parts(config, student, teacher, adapted),
    init=adapted.init,
    rules=adapted.rules,
    head_rules=tables.LADD_HEADS,
    tokens=config.inputs.text_length,
    teacher=teacher and abstract.transformer(teacher),
    encode=encode,
    partial=adapted.partial,
  )


def _limits(config) -> tuple[Limit, ...]:
  """The end of a run whose tangents outgrow its velocities."""
  high = config.sprint.max_tangent_ratio
  limit = Limit(
    'tangent_ratio',
    high,
    'sprint.max_tangent_ratio',
    "the tangents' norm over the velocities'",
    'Start again with a lower optimizer.learning_rate, or a teacher with dense '
    'time (`sana-jax teacher`).',
  )
  return (limit,) * (high > 0 and config.sprint.loss == 'scm')


def _write(student, config, others, params: Params, folder) -> None:
  """Writes a model folder with the index of a SANA-Sprint."""
  exports.write(student, config, others, sprint.student_of(params), folder)
  folders.index_sprint(pathlib.Path(folder))
