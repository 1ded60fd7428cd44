"""Memory check before a launch, by sana-jax plan."""

from collections.abc import Iterator
import shlex
import sys

from ml_collections import ConfigDict

from sana_jax.analysis import chips
from sana_jax.errors import UserError
from sana_jax.launch import devices
from sana_jax.launch.config_files import apply_layout, finish, load_config
from sana_jax.launching.job import Job
from sana_jax.printable import counted

_GIB = 2**30


def check_fits(job: Job, config: ConfigDict) -> None:
  """Raises UserError, with remedies, if the run does not fit its chips.

  Compiled plans are cached.
  """
  from sana_jax.tools.plan import candidates, fitting, tables

  devices.none_but_cpu()
  pod, name = checked(job), job.layout or 'the config'
  compiler = runner(pod)
  mine, *nearest = candidates.make(name, config, pod, candidates.shapes(config))
  if mine.problem:
    raise UserError(
      f'{name} is invalid on {pod.name}: {mine.problem}' + other(nearest, job),
      key='--layout',
      value=job.layout,
      allowed=[c.name for c in nearest if not c.problem],
    )
  plan = compiler.one(mine)
  if plan.problem:
    raise UserError(plan.problem, key='--layout', value=job.layout)
  if not plan.fits:
    others = [c for c in shipped(job, pod) if c.layout() != mine.layout()]
    fixes = fitting.remedies(mine, pod, others, compiler.one)
    raise UserError(
      tables.short_of(plan, fixes),
      key='--layout',
      value=job.layout,
      allowed=[change for change, _ in fixes],
    )
  log(
    f'{name} fits {pod.name}: {plan.needed / _GIB:.2f} of '
    f'{plan.usable / _GIB:.2f} GiB a device.'
  )


def checked(job: Job) -> chips.Topology:
  """The pod; raises UserError if its compiler is missing."""
  from sana_jax.analysis import topologies

  try:
    return topologies.check(job.machines.name)
  except UserError as e:
    raise UserError(
      f'{str(e).removesuffix(".")}, or give --no-plan.',
      key=e.key,
      value=e.value,
      allowed=e.allowed,
    ) from e


def runner(pod: chips.Topology):
  """Runner that logs each compilation."""
  from sana_jax.tools.plan.runner import Runner

  def on_plan(plan, cached):
    if not cached and not plan.problem:
      log(
        f'{plan.layout}, {counted(plan.per_chip, "image")} a chip: '
        f'{plan.needed / _GIB:.2f} of {plan.usable / _GIB:.2f} GiB; '
        f'compiled in {plan.compile_seconds:.0f} s.'
      )

  log(f'Checking whether it fits {pod.name}: compiling takes minutes, once.')
  return Runner(pod.name, on_plan=on_plan)


def log(text: str) -> None:
  """Prints to stderr, apart from the output of --dry-run."""
  print(text, file=sys.stderr)


def other(nearest, job: Job) -> str:
  """Text that names a similar valid layout, if there is one."""
  if not nearest or nearest[0].problem:
    return ''
  command = shlex.join(['sana-jax', 'plan', '--layouts', str(job.layout)])
  return f' {nearest[0].name} is valid: {command} writes its file.'


def shipped(job: Job, pod: chips.Topology) -> Iterator:
  """Valid candidates of the shipped layouts on this pod."""
  from sana_jax.launch import plan
  from sana_jax.tools.plan import candidates

  overrides = [o for o in job.overrides if not o.startswith('--config.mesh.')]
  for name in plan.shipped():
    config = load_config(job.config)
    apply_layout(config, name)
    finish(config, overrides)
    shapes = candidates.shapes(config)
    found = candidates.make(name, config, pod, shapes)
    yield from (one for one in found if not one.problem)
