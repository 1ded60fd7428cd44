"""Candidate layouts, resolved for a pod before compiling."""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import math

import jax
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.analysis import chips
from sana_jax.errors import UserError
from sana_jax.keys import LAYOUT
from sana_jax.printable import counted
from sana_jax.sharding import rules
from sana_jax.sharding.mesh import axis_sizes, check_batch
from sana_jax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A config with its layout applied and all axis sizes resolved.

  Attributes:
    problem: why it is invalid on this pod; '' if it is valid.
  """

  name: str
  config: ConfigDict
  problem: str = ''

  def with_batch(self, per_chip: int, pod: chips.Topology) -> 'Candidate':
    """The candidate with `per_chip` images per chip."""
    config = copied(self.config)
    config.batch_size = per_chip * pod.chips
    return dataclasses.replace(self, config=config)

  def layout(self) -> dict[str, int | str]:
    """Contents of its layout file."""
    found = base.changing(LAYOUT, self.config)
    return {key: value for key, value in found.items() if value != ''}


def different(found: Sequence[Candidate]) -> list[Candidate]:
  """Candidates without duplicates under other names."""
  kept, seen = [], set()
  for one in found:
    key = '' if one.problem else str(sorted(one.layout().items()))
    if not key or key not in seen:
      kept.append(one)
    seen.add(key)
  return kept


def copied(config: ConfigDict) -> ConfigDict:
  """An unlocked copy."""
  return config.copy_and_resolve_references().unlock()


def shapes(config: ConfigDict) -> PyTree:
  """Shapes of the parameters, without allocating them."""
  return jax.eval_shape(tasks.objective(config).init, jax.random.key(0))


def count(params: PyTree) -> int:
  """Number of parameters."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def make(
  name: str, config: ConfigDict, pod: chips.Topology, params: PyTree
) -> list[Candidate]:
  """The layout on a pod, followed by the nearest valid one if it is invalid.

  A multi-slice layout gets as many slices as the pod has (hosts, for GPUs);
  TPU slices are always joined along data.
  """
  config = copied(config)
  config.mesh.slices = max(config.mesh.slices, pod.slices)
  if config.mesh.slices > 1:
    config.mesh.slices = islands(pod)
    if islands(pod) == 1:
      problem = f'It needs at least 2 slices or hosts; {pod.name} has 1.'
      return [Candidate(name, config, problem)]
  try:
    return [_resolved(name, config, pod, params)]
  except UserError as e:
    failed = Candidate(name, config, _first_line(e))
  if config.mesh.fsdp == 1 and config.mesh.tensor == 1:
    return [failed]
  return [failed, *_nearest(name, config, pod, params)]


def islands(pod: chips.Topology) -> int:
  """Number of fast-interconnect domains: TPU slices or GPU hosts."""
  return math.prod(pod.shape[:2]) if pod.chip.is_gpu else pod.slices


def _nearest(name, config, pod, params) -> Iterator[Candidate]:
  """Yields the valid layout with the most fsdp, replicated over the rest."""
  mesh = config.mesh
  ways = pod.devices // (mesh.slices * mesh.tensor * mesh.sequence)
  for fsdp in (n for n in range(ways, 1, -1) if ways % n == 0):
    other = copied(config)
    other.mesh.update(data=-1, fsdp=fsdp)
    try:
      yield _resolved(f'{name}_{fsdp}', other, pod, params)
      return
    except UserError:
      continue


def _resolved(name, config, pod, params):
  """Candidate with all sizes resolved; raises UserError if invalid."""
  count, slices = pod.devices, config.mesh.slices
  if count % slices:
    raise UserError(
      f'mesh.slices={slices} does not divide {counted(count, "device")}.',
      key='mesh.slices',
      value=slices,
      allowed=f'divisors of {count}',
    )
  shape = {a: n for a, n in config.mesh.items() if a != 'slices'}
  sizes = axis_sizes(shape, count // slices)
  whole = sizes | {'data': sizes.get('data', 1) * slices}
  mesh = AbstractMesh(tuple(whole.values()), tuple(whole))
  leaves, structure = jax.tree.flatten(params)
  table = tuple(tasks.objective(config).rules)
  if misfit := _misfit(tuple(leaves), structure, table, mesh):
    raise UserError(misfit)
  check_batch(mesh, config.batch_size, config.accumulate_steps)
  _check_heads(config, sizes)
  config = copied(config)
  config.mesh.update(sizes)
  return Candidate(name, config)


@functools.lru_cache(4096)  # A search repeats each mesh about 100 times.
def _misfit(leaves, structure, table, mesh):
  """Why a table cannot shard parameters on a mesh, or ''."""
  try:
    rules.shardings(structure.unflatten(leaves), table, mesh)
  except UserError as e:
    return str(e)
  return ''


def _check_heads(config, sizes):
  """Raises UserError unless tensor and sequence split whole heads and rows."""
  model = config.model
  sizes_of = dict(model)
  if 'cross_heads' in model:  # The transformer; its heads have 32 channels.
    sizes_of['width / head_dim'] = model.width // model.get('head_dim', 32)
  for axis, key in (
    ('tensor', 'cross_heads'),
    ('tensor', 'width / head_dim'),
    ('tensor', 'heads'),
    ('tensor', 'kv_heads'),
    ('sequence', 'sample_size'),
  ):
    size = sizes_of.get(key, 0)
    if size % sizes.get(axis, 1):
      allowed = [n for n in range(1, size + 1) if size % n == 0]
      near = sorted(allowed, key=lambda n: abs(n - sizes[axis]))[:3]
      raise UserError(
        f'mesh.{axis}={sizes[axis]} does not divide config.model.{key}={size}; '
        f'nearest that do are {", ".join(map(str, sorted(near)))}.',
        key=f'mesh.{axis}',
        value=sizes[axis],
        allowed=sorted(near),
      )


def _first_line(error):
  """First line of an error, and how many follow."""
  lines = str(error).splitlines()
  more = f' (and {len(lines) - 1} more)' if len(lines) > 1 else ''
  return lines[0].rstrip('.') + more + '.'
