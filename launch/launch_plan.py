"""Whether a run fits its chips: asked of sana-jax plan before a launch."""

from collections.abc import Iterator
import shlex
import sys

from ml_collections import ConfigDict

from sana_jax import config as base
from sana_jax.analysis import chips
from sana_jax.errors import UserError
from sana_jax.launch import devices
from sana_jax.launch.config_files import apply_layout, load_config
from sana_jax.launching.job import Job

_GIB = 2**30


def check_fits(job: Job, config: ConfigDict) -> None:
  """Raises UserError, with what would fit, for what the chips cannot hold.

  What was compiled once is kept by sana-jax plan.
  """
  from sana_jax.tools.plan import candidates, fitting, tables

  devices.none_but_cpu()
  pod, name = checked(job), job.layout or 'the config'
  compiler = runner(pod)
  mine, *nearest = candidates.make(name, config, pod, candidates.shapes(config))
  if mine.problem:
    raise UserError(
      f'{name} cannot be on {pod.name}: {mine.problem}' + other(nearest, job)
    )
  plan = compiler.one(mine)
  if plan.problem:
    raise UserError(plan.problem)
  if not plan.fits:
    others = [c for c in shipped(job, pod) if c.layout() != mine.layout()]
    raise UserError(
      tables.short_of(plan, fitting.remedies(mine, pod, others, compiler.one))
    )
  tell(
    f'{name} fits {pod.name}: {plan.needed / _GIB:.2f} of '
    f'{plan.usable / _GIB:.2f} GiB a device.'
  )


def checked(job: Job) -> chips.Topology:
  """The pod; UserError where its compiler is missing."""
  from sana_jax.analysis import topologies

  try:
    return topologies.check(job.machines.name)
  except UserError as e:
    raise UserError(f'{str(e).removesuffix(".")}, or give --no-plan.') from e


def runner(pod: chips.Topology):
  """Compiles, and tells of what takes minutes."""
  from sana_jax.tools.plan.runner import Runner

  def told(plan, cached):
    if not cached and not plan.problem:
      tell(
        f'{plan.layout}, {plan.per_chip:g} images a chip: '
        f'{plan.needed / _GIB:.2f} of {plan.usable / _GIB:.2f} GiB; '
        f'compiled in {plan.compile_seconds:.0f} s.'
      )

  tell(f'Looking whether it fits {pod.name}: compiling takes minutes, once.')
  return Runner(pod.name, told=told)


def tell(said: str) -> None:
  """Beside what --dry-run prints."""
  print(said, file=sys.stderr)


def other(nearest, job: Job) -> str:
  """A layout like it that can be, if there is one."""
  if not nearest or nearest[0].problem:
    return ''
  command = shlex.join(['sana-jax', 'plan', '--layouts', str(job.layout)])
  return f' {nearest[0].name} can be: {command} writes its file.'


def shipped(job: Job, pod: chips.Topology) -> Iterator:
  """Each shipped layout, as it would be on this pod."""
  from sana_jax.launch import plan
  from sana_jax.tools.plan import candidates

  overrides = [o for o in job.overrides if not o.startswith('--config.mesh.')]
  for name in plan.shipped():
    config = load_config(job.config)
    apply_layout(config, name)
    base.apply_overrides(config, overrides)
    shapes = candidates.shapes(config)
    found = candidates.make(name, config, pod, shapes)
    yield from (one for one in found if not one.problem)
