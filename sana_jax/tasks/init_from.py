"""Initial parameters, and config.model, from a model folder.

    config.init_from -> transformer/, vae/ or text_encoder/ -> shards
                        its config.json -> config.model

Weights are loaded directly to the devices that hold their shards. The folder is
read at step 0, and at each start of a run with frozen parameters; other runs
resume from their checkpoint alone, and the folder may be deleted by then; their
config.model is then that of the workdir.
"""

from collections.abc import Callable, Sequence
import functools
import json
import os
import pathlib
from typing import Any

from absl import logging
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax import config as rules
from sana_jax import registry
from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.printable import printable
from sana_jax.training import checkpoint_files, run_config
from sana_jax.training.task import Start
from sana_jax.training.workdir import resolve
from sana_jax.typing import DType, Params
from sana_jax.weights import additions, dense_time, growing, hub, zoo
from sana_jax.weights import folder as folders
from sana_jax.weights.growing import Growth

FREE = additions.FREE


def set_model(
  config: ConfigDict,
  overrides: Sequence[str] = (),
  workdir: os.PathLike | str | None = None,
) -> None:
  """Sets config.model to the model of config.init_from, except for FREE.

  Fields of config.init_adds, and those that the task adds, keep theirs, too.

  The scaling factor is set, too, unless it is in `overrides`, the arguments
  --config.key=value. Raises UserError if they set another key to another value.

  Args:
    workdir: folder of the run, whose own config.model is used once it has a
      checkpoint; without it nothing is downloaded, and only a model on this
      machine or in the zoo is used.
  """
  part = registry.find(config.task).part
  if not config.init_from or not part:
    return
  if workdir is None:
    fields = _fields_here(config.init_from, part)
  elif checkpoint_files.steps(resolve(workdir) / 'checkpoints'):
    stored = run_config.read_config(workdir)
    fields = stored.model.to_dict() if stored.init_from else {}
  else:
    fields = _fields(folders.describe(hub.find(config.init_from), part))
  given = {argument.partition('=')[0] for argument in overrides}
  changed = _changes(fields, config)
  kept = [key for key in changed if f'--config.model.{key}' in given]
  if wrong := {k: config.model[k] for k in kept if k not in FREE}:
    raise _other(config.init_from, part, changed, wrong)
  changed = {key: x for key, x in changed.items() if key not in kept}
  if changed:
    logging.info(
      'config.model is that of config.init_from=%s: %s.',
      printable(config.init_from, 200),
      ', '.join(f'{key} {value!r}' for key, value in sorted(changed.items())),
    )
    config.model = ConfigDict({**config.model.to_dict(), **changed})
    rules.check(config)


def added(config: ConfigDict) -> tuple[str, ...]:
  """Fields of config.init_adds, and those that the task adds."""
  own = registry.find(config.task).adds
  return (*own, *config.get('init_adds', '').split())


def growth(config: ConfigDict) -> Growth | None:
  """How config.grow makes the model deeper; None for not at all."""
  grow = config.get('grow', {})
  if not grow.get('strategy'):
    return None
  return Growth(
    config.model.depth, grow.strategy, grow.drop, grow.zero_gate, config.seed
  )


def _added(adds, there):
  """Fields that may differ from those of a model, since they are added.

  A part that the model has cannot be removed.
  """
  free = {key for key in adds if there.get(key) is not True}
  scale = {'guidance_embeds_scale'} if 'guidance_embeds' in free else set()
  return free | scale


def _adapted(params, source, target, seed):
  """The parameters with the target's parts; logs what they change."""
  new = additions.adapted(params, source, target, jax.random.key(seed))
  parts = additions.parts(source, target)
  if parts:
    logging.info('Added to the weights: %s.', ', '.join(parts))
  if 'timestep_scale' in parts:
    old, fitted = (tree['time_embed']['timestep'] for tree in (params, new))
    fit = additions.time_fit(old, source, fitted, target)
    logging.info('%s', dense_time.describe(fit))
  return new


def _changes(fields, config):
  """Fields of a model with other values in config.model, by its keys."""
  table = rules.table(config.task)
  free = (set(FREE) - {'scaling_factor'}) | _added(added(config), fields)
  free |= {'depth'} if growth(config) else set()
  return {
    key: _tuples(value)
    for key, value in fields.items()
    if key not in free
    and (rule := table.get(f'model.{key}'))
    and _tuples(config.model.get(key, rule.default)) != _tuples(value)
  }


def _fields_here(name, part) -> dict[str, Any]:
  """Fields of a model that is on this machine or in the zoo; {} for others."""
  if folder := hub.on_this_machine(name):
    return _fields(folders.describe(folder, part))
  entry = next((e for e in zoo.ENTRIES if name in (e.name, e.hub_id)), None)
  known = entry is not None and part in entry.fields
  return _fields(entry.module(part)) if known else {}


def _tuples(value):
  """The value with its lists as tuples, since modules hash their fields."""
  if isinstance(value, list | tuple):
    return tuple(map(_tuples, value))
  return value


def start(
  part: str,
  module: nn.Module,
  *,
  kept: Sequence[str] = (),
  under: str = '',
  more: Callable[[pathlib.Path], list[str]] = lambda folder: [],
  adds: Sequence[str] = (),
  grow: Growth | None = None,
  seed: int = 0,
  dtype: DType = jnp.float32,
) -> Start:
  """A Start from a model folder's `part`.

  Args:
    module: the task's module, which the folder's must equal.
    kept: fields of FREE that must be equal nevertheless.
    under: the key of the folder's parameters; '' if they are all parameters.
    more: folder -> further differences.
    adds: fields that may differ, whose parts are added to the weights.
    grow: how the folder's model becomes deeper.
    seed: of the initial values of parts.
    dtype: of the parameters.
  """

  def check(name: str) -> None:
    compare(name, part, module, kept, more, adds, grow)

  def load(name: str, mesh: Mesh) -> Params:
    change = grow and functools.partial(
      growing.grown, growth=grow, named=growing.as_key
    )
    model = folders.load(hub.find(name), part, dtype, mesh, change=change)
    params = model.variables['params']
    if adds:
      params = _adapted(params, model.module, module, seed)
    return {under: params} if under else params

  return Start(check, load)


def compare(
  name: str,
  part: str,
  module: nn.Module,
  kept: Sequence[str] = (),
  more: Callable[[pathlib.Path], list[str]] = lambda folder: [],
  adds: Sequence[str] = (),
  grow: Growth | None = None,
) -> None:
  """Raises UserError unless the folder's model equals `module`; see `start`."""
  folder = hub.find(name)
  folder_fields = _fields(folders.describe(folder, part))
  module_fields = _fields(module)
  free = (set(FREE) - set(kept)) | _added(adds, folder_fields)
  if grow:
    growing.check(grow, folder_fields['depth'], growing.as_key)
    free.add('depth')
  if wrong := {
    key: value
    for key, value in module_fields.items()
    if key not in free and value != folder_fields[key]
  }:
    raise _other(name, part, folder_fields, wrong)
  if differ := more(folder):
    raise UserError(
      f'config.init_from={name!r}: {"; ".join(differ)}. Start from another '
      'model.',
      key='init_from',
      value=name,
    )


def _other(name, part, there, here) -> UserError:
  """Error for the fields `here`, which have other values `there`."""
  differ = [
    f'{key} is {there[key]!r} there and {value!r} here'
    for key, value in here.items()
  ]
  first = next(iter(here))
  adds = [
    key for key in here if key in additions.ADDABLE and there[key] is not True
  ]
  add = f", or add parts with config.init_adds='{' '.join(adds)}'"
  return UserError(
    f'config.init_from={name!r}: {"; ".join(differ)}. Start from another '
    f'model, or change config.model to what is in its {part}/config.json'
    + add * bool(adds)
    + '.',
    key=f'model.{first}',
    value=here[first],
    allowed=(there[first],),
  )


def _fields(module) -> dict[str, Any]:
  """Fields by name, with tuples as lists."""
  fields = folders.module_fields(module)
  del fields['dtype']
  return parse_json(json.dumps(fields))
