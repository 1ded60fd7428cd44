"""Parts added to a trained transformer: norms, dense time, guidance.

They prepare the teachers and students of SANA-Sprint (arXiv:2503.09641, section
3.2) without training. All other parameters are the same arrays as before:

    qk_norm, cross_norm  scales of 1, which change the output: fine-tune it
    timestep_scale       a time embedding refitted to the same curve, see
                         dense_time.py: nearly the same output
    guidance_embeds      an embedding of 0: the same output for any scale
    logvar               a log-variance of 0 as a further output
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from sana_jax.errors import UserError
from sana_jax.models import abstract
from sana_jax.models.embeddings import TimeMLP
from sana_jax.models.sana import ADDABLE, Sana
from sana_jax.sharding import rules, tables
from sana_jax.tree import leaves, unflatten
from sana_jax.typing import Array, Params, PRNGKeyArray
from sana_jax.weights import dense_time

# Fields that change neither the parameters nor their meaning: a stage at
# another size has another position embedding, which is computed.
FREE = (
  'attention_eps',
  'control_after',
  'cross_norm_eps',
  'dtype',
  'interpolation_scale',
  'remat',
  'rounded_timesteps',
  'sample_size',
  'scaling_factor',
  'text_norm_scale',
  'unroll',
)
_TIME = 'time_embed/timestep'
_GUIDANCE = 'time_embed/guidance'
_NORMED = {
  'qk_norm': 'blocks/self_attention',
  'cross_norm': 'blocks/cross_attention',
}


def adapted(
  params: Params, source: Sana, target: Sana, rng: PRNGKeyArray
) -> Params:
  """Parameters of `target`, a module with more parts than `source`.

  Leaves that are the same in both modules are those of `params`, not copies.
  New ones are sharded by the model's table on the mesh of the others, if any.

  Args:
    params: parameters of `source`, as arrays of any kind or inside of a jit.
    target: differs in ADDABLE and FREE only.
    rng: key of the new parameters.

  Raises:
    UserError: names the first other field that differs.
  """
  check(source, target)
  make = functools.partial(changes, source=source, target=target)
  old, mlp = leaves(params), params['time_embed']['timestep']
  mesh = _mesh(mlp['linear1']['kernel'])
  if mesh is None:
    return unflatten({**old, **jax.jit(make)(mlp, rng=rng)})
  shapes = abstract.transformer(target)
  where = leaves(rules.shardings(shapes, tables.SANA, mesh))
  names = jax.eval_shape(make, mlp, rng=rng)
  made = jax.jit(make, out_shardings={name: where[name] for name in names})
  return unflatten({**old, **made(mlp, rng=rng)})


def changes(
  mlp: Params, source: Sana, target: Sana, rng: PRNGKeyArray
) -> dict[str, Array]:
  """New and changed parameters of `target`, by name.

  Args:
    mlp: parameters of the source's time_embed/timestep, whose dtype the new
      ones have.
  """
  of_time, of_guidance = jax.random.split(rng)
  added, out = parts(source, target), {}
  if 'timestep_scale' in added:
    fitted = dense_time.refit(
      mlp, source.timestep_scale, target.timestep_scale, of_time
    )
    out |= _under(_TIME, fitted)
  if 'guidance_embeds' in added:
    out |= _under(_GUIDANCE, _silent(target.width, of_guidance))
  if 'logvar' in added:
    out['log_variance/kernel'] = jnp.zeros((target.width, 1))
    out['log_variance/bias'] = jnp.zeros(1)
  for part, layer in _NORMED.items():
    if part in added:
      ones = jnp.ones((target.depth, target.width))
      out |= {f'{layer}/{name}_norm/scale': ones for name in ('query', 'key')}
  dtype = mlp['linear1']['kernel'].dtype
  return {name: x.astype(dtype) for name, x in out.items()}


def time_fit(
  mlp: Params, source: Sana, new: Params, target: Sana
) -> dense_time.Fit:
  """Comparison of time embeddings, parameters of time_embed/timestep."""
  compare = jax.jit(dense_time.compare, static_argnums=(1, 3))
  return compare(mlp, source.timestep_scale, new, target.timestep_scale)


def parts(source: Sana, target: Sana) -> tuple[str, ...]:
  """Fields of ADDABLE in which the modules differ."""
  return tuple(
    name for name in ADDABLE if getattr(source, name) != getattr(target, name)
  )


def check(source: Sana, target: Sana) -> None:
  """Raises UserError unless `target` is `source` with more parts."""
  there, here = _fields(source), _fields(target)
  free = {*FREE, *ADDABLE}
  if not source.guidance_embeds:
    free.add('guidance_embeds_scale')
  for name, value in here.items():
    if name not in free and value != there.get(name):
      raise _refused(name, there.get(name), value, 'cannot be changed')
    if name in ADDABLE and there[name] is True and value is False:
      raise _refused(name, True, False, 'cannot be removed')


def _refused(name, there, here, why):
  return UserError(
    f'{name} is {there!r} in the trained model and {here!r} here, and {why}; '
    f'parts that can be added are {", ".join(ADDABLE)}.',
    key=name,
    value=here,
    allowed=(there,),
  )


def _fields(module) -> dict[str, Any]:
  return {
    field.name: getattr(module, field.name)
    for field in dataclasses.fields(module)
    if field.name not in ('parent', 'name')
  }


def _silent(width, rng):
  """Initial parameters of an embedding, with 0 in its last layer."""
  mlp = TimeMLP(width, jnp.float32).init(rng, jnp.zeros(1))['params']
  return {**mlp, 'linear2': jax.tree.map(jnp.zeros_like, mlp['linear2'])}


def _under(name, tree):
  return {f'{name}/{inner}': leaf for inner, leaf in leaves(tree).items()}


def _mesh(leaf):
  """The mesh of a sharded array; None for others, also inside of a jit."""
  if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
    sharding = leaf.sharding
    return sharding.mesh if isinstance(sharding, NamedSharding) else None
  return None
