"""What lies where on a pod, as text: a change of it is a diff.

Nothing is compiled: the parts of all parameters and the state's bytes follow
from the config, the layout and the mesh.

  sana-jax plan --config ... --topology ... --shardings
"""

from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh

from sana_jax.optim import factory
from sana_jax.planning.candidates import Candidate
from sana_jax.planning.compiling import of_device
from sana_jax.planning.steps import Objective
from sana_jax.planning.tables import mesh_text
from sana_jax.sharding import rules, tables
from sana_jax.training import state as states
from sana_jax.typing import PyTree

MIB = 2**20


def text(candidates: Sequence[Candidate]) -> str:
  """Of each layout: its mesh, the state's MiB a device, and every sharding."""
  lines = []
  for one in candidates:
    lines.append(f'{one.name}: {mesh_text(one.config.mesh.to_dict())}')
    lines += [f'  {one.problem}'] if one.problem else _state(one)
  return '\n'.join(lines) + '\n'


def _state(one):
  config = one.config
  sizes = {a: n for a, n in config.mesh.items() if a != 'slices'}
  sizes['data'] *= config.mesh.slices
  mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
  objective = Objective(config)
  tx = factory.make(config.optimizer, config.num_steps, config.batch_size)
  shapes = jax.eval_shape(objective.init, jax.random.key(0))
  places = rules.shardings(shapes, tables.SANA, mesh)
  params = states.with_shardings(shapes, places)
  moments = states.with_shardings(
    jax.eval_shape(tx.init, shapes),
    rules.state_shardings(tx, shapes, places, mesh))
  return [
    f'  parameters {of_device(params) / MIB:.1f} MiB, optimizer '
    f'{of_device(moments) / MIB:.1f} MiB of a device', *_parameters(params)]


def _parameters(params: PyTree) -> list[str]:
  """'path 20x2240x2240: 20x35x2240' where a device has a part of it."""
  size = lambda shape: 'x'.join(map(str, shape))
  lines = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    part = leaf.sharding.shard_shape(leaf.shape)
    if part != leaf.shape:
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      lines.append(f'  {name} {size(leaf.shape)}: {size(part)}')
  return lines
