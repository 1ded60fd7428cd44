"""Parts added to a transformer's files, without training or loading it.

    Part(config, tensors) -> additions.py -> Part with new and changed tensors

Only the time embedding is read. The other tensors stay lazy and unchanged, so
that a model of any size takes little memory.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sana_jax.errors import UserError
from sana_jax.tree import leaves, unflatten
from sana_jax.weights import additions, kinds, placing, table
from sana_jax.weights import folder as folders
from sana_jax.weights.dense_time import Fit
from sana_jax.weights.exchange import Part
from sana_jax.weights.tensors import stored

DENSE = {'timestep_scale': 0.001}  # Timesteps in [0, 1].
# diffusers' config has one key for both.
NORMS = {'qk_norm': True, 'cross_norm': True}
_TIME = 'time_embed/timestep'
_CHANGED = ('qk_norm', 'timestep_scale')  # Keys of a config.json.


class Added(NamedTuple):
  """A transformer with more parts; `fit` is None without a new time scale."""

  part: Part
  fit: Fit | None


def added(part: Part, fields: Mapping[str, Any], seed: int = 0) -> Added:
  """The transformer with the parts of `fields`, such as {**DENSE, **NORMS}.

  New tensors have the dtype of the time embedding's.

  Raises:
    UserError: the model has one of them already.
  """
  kind = kinds.of_config(part.config, 'transformer')
  source = kind.module(part.config, jnp.float32)
  target = source.clone(**fields)
  _check(source, fields)
  mlp = _time(kind, source, part)
  new = additions.changes(mlp, source, target, jax.random.key(seed))
  params = unflatten(new)
  tensors = table.save(kind.rules(target), {'params': params})
  config = kind.config(folders.module_fields(target))
  result = Part(
    {**part.config, **{key: config[key] for key in _CHANGED}},
    {**part.tensors, **{key: stored(x) for key, x in tensors.items()}},
  )
  if source.timestep_scale == target.timestep_scale:
    return Added(result, None)
  fitted = params['time_embed']['timestep']
  return Added(result, additions.time_fit(mlp, source, fitted, target))


def _check(source, fields):
  for name, value in fields.items():
    if getattr(source, name) == value:
      raise UserError(
        f'The transformer has {name}={value!r} already; add other parts, or '
        'none.',
        key=name,
        value=value,
        allowed=f'a transformer without {name}',
      )


def _time(kind, module, part):
  """Parameters of the time embedding, in the file's dtype."""
  shapes = kind.shapes(module)
  found = table.match(kind.rules(module), part.tensors, shapes)
  prefix = f'params/{_TIME}/'
  return unflatten(
    {
      name.removeprefix(prefix): placing.on_host(leaf.shape, *found[name])
      for name, leaf in leaves(shapes).items()
      if name.startswith(prefix)
    }
  )
