"""The base of a partial run: what config.trainable leaves out.

    config.init_from, config.seed -> base -> each step, each export

Checkpoints hold what trains alone. They record where the base comes from: the
seed that drew it, or the model folder and a checksum of its weights. So a run
goes on, and is exported, with the base that it began with or not at all.
"""

import json
from typing import Any
import zlib

from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax.errors import UserError
from sana_jax.training import saved
from sana_jax.training.checksums import checksums
from sana_jax.training.state import first_key, Plan
from sana_jax.training.task import Start
from sana_jax.typing import Params


def given(name: str, start: Start, mesh: Mesh) -> Params:
  """Parameters of the model folder `name` on the mesh; none of ''."""
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
  """The base and where it comes from; `({}, None)` where all trains."""
  if not plan.base:
    return {}, None
  params = given(config.init_from, start, mesh)
  base = plan.make_base(first_key(config.seed), params)
  return base, origin(config, base, params)


def origin(config: ConfigDict, base: Params, params: Params) -> dict[str, Any]:
  """Where a base comes from, as JSON: `params` were given, the rest drawn."""
  loaded = {part: x for part, x in base.items() if part in params}
  return {
    'init_from': config.init_from if loaded else '',
    'checksum': _checksum(loaded) if loaded else None,
    'seed': config.seed if len(loaded) < len(base) else None,
  }


def _checksum(params):
  """One number for all leaves and their names."""
  sums = list(zip(saved.names(params), checksums(params).tolist()))
  return zlib.crc32(json.dumps(sums).encode())


def compare(theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> None:
  """Raises UserError unless a run's base is the one that is here."""
  facts = lambda x: x and (x['checksum'], x['seed'])
  if facts(theirs) == facts(ours):
    return
  raise UserError(
    f'The run was trained on the base {_said(theirs)}, and config.init_from '
    f'and config.seed give {_said(ours)}: set config.init_from to the model '
    'that it began with.'
  )


def _said(origin):
  if origin is None:
    return 'none (all of it trains)'
  drawn = f'that config.seed={origin["seed"]} draws'
  if origin['checksum'] is None:
    return drawn
  return (
    f'{origin["init_from"]!r} (checksum {origin["checksum"]})'
    + f', the rest {drawn}' * (origin['seed'] is not None)
  )
