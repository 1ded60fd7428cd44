"""The base of a partial run: the parameters that config.trainable excludes.

    config.init_from, config.seed -> base -> each step, each export

Checkpoints hold only the trainable parameters. They record the origin of the
base: the seed that initialized it, or the model folder and a checksum of its
weights. A run is resumed and exported with its original base or not at all.
"""

from collections.abc import Collection
from typing import Any
import warnings

from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax.errors import UserError
from sana_jax.training import frozen_models
from sana_jax.training.state import first_key, Plan
from sana_jax.training.task import Start
from sana_jax.typing import Params


def given(name: str, start: Start, mesh: Mesh) -> Params:
  """Parameters of the model folder `name` on the mesh; {} for ''."""
  if not name:
    return {}
  logging.info('Starting from %s.', name)
  return start.load(name, mesh)


def make(
  plan: Plan,
  config: ConfigDict,
  start: Start,
  mesh: Mesh,
) -> tuple[Params, dict[str, Any] | None]:
  """The base and its origin; `({}, None)` if everything is trainable.

  The base takes the arrays of the model folder, which is not held twice.
  """
  if not plan.base:
    return {}, None
  params = given(config.init_from, start, mesh)
  with warnings.catch_warnings():
    # Parts that train, or are stored as another type, are given and not kept.
    warnings.filterwarnings('ignore', 'Some donated buffers were not usable')
    base = plan.make_base(first_key(config.seed), params)
  return base, origin(config, base, set(params))


def origin(
  config: ConfigDict, base: Params, parts: Collection[str]
) -> dict[str, Any]:
  """Origin of a base, as JSON: `parts` were given, the rest initialized."""
  loaded = {part: x for part, x in base.items() if part in parts}
  return {
    'init_from': config.init_from if loaded else '',
    'checksum': frozen_models.checksum(loaded) if loaded else None,
    'seed': config.seed if len(loaded) < len(base) else None,
  }


def compare(
  recorded: dict[str, Any] | None, current: dict[str, Any] | None
) -> None:
  """Raises UserError unless a run's base is the current one."""
  facts = lambda x: x and (x['checksum'], x['seed'])
  if facts(recorded) == facts(current):
    return
  raise UserError(
    f'The run was trained on the base {_text(recorded)}, and config.init_from '
    f'and config.seed give the base {_text(current)}: set config.init_from to '
    'the model that it started from.',
    key='init_from',
    value=current and current['init_from'],
    allowed=recorded and (recorded['init_from'],),
  )


def _text(origin):
  if origin is None:
    return 'none (everything is trainable)'
  drawn = f'drawn from config.seed={origin["seed"]}'
  if origin['checksum'] is None:
    return drawn
  return (
    f'{origin["init_from"]!r} (checksum {origin["checksum"]})'
    + f', the rest {drawn}' * (origin['seed'] is not None)
  )
