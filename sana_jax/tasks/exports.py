"""Reads the weights of a run at any step, from a checkpoint, for export.

A task exports its weights at the end of a run; here they are read with only the
config, during the run: no data are read, only the CPU is used, and the workdir
is not changed.
"""

import re
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict
import numpy as np

from sana_jax.errors import UserError
from sana_jax.optim import freezing
from sana_jax.sharding.mesh import local_mesh
from sana_jax.training import bases, checkpoint_files, optimizers, state
from sana_jax.training.task import Exporter
from sana_jax.tree import unflatten
from sana_jax.typing import Params

WEIGHTS = ('ema', 'params')


def find(workdir: epath.Path, step: int | None) -> epath.Path:
  """The checkpoint of a step, by default the newest; UserError without one."""
  steps = checkpoint_files.steps(workdir / 'checkpoints')
  if not steps:
    raise UserError(
      f'--workdir={workdir} has no checkpoint yet.',
      key='--workdir',
      value=workdir,
    )
  if step is not None and step not in steps:
    raise UserError(
      f'--step={step}: {workdir} has checkpoints of the steps '
      f'{", ".join(map(str, steps))}; choose one of these (keep_every_steps '
      'keeps more).',
      key='--step',
      value=step,
      allowed=steps,
    )
  return workdir / 'checkpoints' / str(steps[-1] if step is None else step)


def read(
  checkpoint: epath.Path,
  weights: str | None,
  config: ConfigDict,
  exporter: Exporter,
) -> Params:
  """All weights of a run; those of the checkpoint are verified by checksums.

  `weights` is one of WEIGHTS, by default the EMA if there is one. Raises
  UserError for missing or damaged weights, or another base.
  """
  recorded, params = _saved(checkpoint, weights)
  base, origin = _base(config, exporter)
  bases.compare(recorded, origin)
  return freezing.join(params, base)


def skipped(checkpoint: epath.Path) -> int:
  """Updates skipped by the run, for the player with the most.

  `read` must have accepted the checkpoint before.
  """
  leaves = checkpoint_files.read_json(checkpoint, checkpoint_files.ABOUT)[
    'leaves'
  ]
  return max(
    (
      int(checkpoint_files.open_array(checkpoint, name).read().result())
      for name in leaves
      if re.fullmatch(r'players\..*\.skipped', name)
    ),
    default=0,
  )


def _saved(checkpoint, weights) -> tuple[dict[str, Any] | None, Params]:
  """The origin of the run's base, and the weights in the checkpoint."""
  try:
    checkpoint_files.check_kinds(checkpoint)
    about = checkpoint_files.read_json(checkpoint, checkpoint_files.ABOUT)
    checkpoint_files.check_layout(checkpoint, about)
    wanted = dict(zip(about['leaves'], about['state'], strict=True))
    has_average = any(name.startswith('ema.') for name in wanted)
    if weights == 'ema' and not has_average:
      raise UserError(
        '--weights=ema: this run keeps no average (its ema_decay '
        'is 0); use --weights params.',
        key='--weights',
        value='ema',
        allowed=('params',),
      )
    part = weights or ('ema' if has_average else 'params')
    params = {}
    for name in wanted:
      if name.startswith((f'{part}.', 'extra.')):
        x = checkpoint_files.open_array(checkpoint, name).read().result()
        if checkpoint_files.checksum(x) != wanted[name]:
          raise UserError(
            f'{checkpoint} is damaged: {name} differs from what '
            'was saved; choose another --step.',
            key='--step',
            value=checkpoint,
          )
        params[name.partition('.')[2]] = x
    return checkpoint_files.base_of(about), unflatten(params, '.')
  except UserError:
    raise
  except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
    reason = (str(error).strip().splitlines() or [''])[0][:200]
    raise UserError(
      f'{checkpoint} cannot be read ({type(error).__name__}: {reason}); it is '
      'damaged, or the run has deleted it in the meantime: choose another '
      '--step.',
      key='--step',
      value=checkpoint,
    ) from error


def _base(config, exporter):
  """The frozen parameters of the run, as host arrays, and their origin."""
  objective, mesh = exporter.objective, local_mesh()
  plan = state.plan(
    objective,
    optimizers.make(config, objective),
    mesh,
    trainable=config.trainable,
  )
  with jax.set_mesh(mesh):
    base, origin = bases.make(plan, config, exporter.start, mesh)
  return jax.tree.map(np.asarray, base), origin
