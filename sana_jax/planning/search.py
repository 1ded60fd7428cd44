"""Mesh shapes, remat and accumulation, pruned by formulas before compiling.

The formulas count what dominates: state, kept inputs of blocks and one block's
intermediate arrays in memory; products, the arrays that a block moves, and the
weights that are gathered, in time. They rank; the compiler decides.
"""

from collections.abc import Iterator, Sequence
import itertools
import math
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from sana_jax.planning import candidates
from sana_jax.planning.candidates import Candidate, copied
from sana_jax.sharding import chips
from sana_jax.typing import PyTree

# Arrays [tokens, width] that a block makes, and those that are kept of them;
# the passes over a block, in forward passes, that a step takes.
_ARRAYS = 36
_KEPT = {'none': _ARRAYS, 'dots': 16, 'full': 1, 'offload': 0}
_PASSES = {'none': 3.0, 'dots': 3.2, 'full': 4.0, 'offload': 4.0}
_ACCUMULATE = (1, 2, 4, 8)
_AT_ONCE = 2.5  # Blocks' worth of arrays that live at the same time.
# Bytes of state for each parameter, besides itself and its average.
_MOMENTS = {'came': 4, 'came_8bit': 1, 'came_8bit_rows': 1, 'lion': 4,
            'adafactor': 0.1, 'muon': 4}
_WITHIN = 1.1  # Of the memory: formulas err, and compiling tells.
_STATE = 0.85  # Of the memory; something must be left to compute in.


class Estimate(NamedTuple):
  """Of a device: bytes of the state and of all, and seconds of a step."""

  state: float
  bytes: float
  seconds: float

  def may_fit(self, usable: float) -> bool:
    """The state is known; of the rest, there is only an idea."""
    return self.state <= _STATE * usable and self.bytes <= _WITHIN * usable


def space(config: ConfigDict, pod: chips.Topology,
          params: PyTree) -> Iterator[Candidate]:
  """Every mesh, remat and accumulation that this pod and model allow."""
  slices = candidates.islands(pod)
  count = pod.devices // slices
  ways = [n for n in range(1, count + 1) if count % n == 0]
  for fsdp, tensor, sequence in itertools.product(ways, (1, 2, 4), (1, 2, 4)):
    if count % (fsdp * tensor * sequence):
      continue
    mesh = dict(data=-1, fsdp=fsdp, tensor=tensor, sequence=sequence,
                slices=slices)
    for remat, accumulate in itertools.product(_PASSES, _ACCUMULATE):
      one = copied(config)
      one.mesh.update(mesh)
      one.model.remat, one.accumulate_steps = remat, accumulate
      name = '_'.join(
        [f'{axis}{n}' for axis, n in (
          ('fsdp', fsdp), ('tensor', tensor), ('sequence', sequence)) if n > 1]
        + [remat] + ([f'in{accumulate}'] if accumulate > 1 else []))
      found = candidates.make(name, one, pod, params)[0]
      if not found.problem:
        yield found


def estimate(config: ConfigDict, pod: chips.Topology, parameters: int,
             forward_flops: float | int) -> Estimate:
  """By formulas; `forward_flops` are of one image."""
  chip, mesh = pod.chip.of_device(), config.mesh
  shards = mesh.fsdp * mesh.tensor
  images = config.batch_size / (
    mesh.data * mesh.slices * mesh.fsdp) / config.accumulate_steps
  model = config.model
  array = images * model.sample_size**2 * model.width * 2 / (
    mesh.sequence * mesh.tensor)
  itself = 2 if config.param_dtype == 'bfloat16' else 4
  state = itself + 4 * (config.ema_decay > 0) + _MOMENTS.get(
    config.optimizer.name, 8)
  gradients = 4 * (1 + (config.accumulate_steps > 1))
  block = parameters / model.depth
  known = parameters * (state + gradients) / shards
  memory = known + 2 * 2 * block + array * (
    _KEPT[model.remat] * model.depth + _AT_ONCE * _ARRAYS)
  passes, parts = _PASSES[model.remat], config.accumulate_steps
  compute = passes * forward_flops * images * parts / (
    mesh.tensor * mesh.sequence) / chip.flops
  moved = passes * array * parts * _ARRAYS * model.depth / chip.memory_rate
  return Estimate(known, memory, max(compute, moved) + 0.3 * min(compute, moved)
                  + _talk(config, pod, parameters, array, passes))


def _talk(config, pod, parameters, array, passes):
  """Seconds of communication, of which half is hidden."""
  mesh, chip, parts = config.mesh, pod.chip.of_device(), config.accumulate_steps
  fast = chip.link_rate
  gathers = (passes - 1) * 2 + 4  # bfloat16 weights, float32 gradients.
  sent = parameters / mesh.tensor * gathers * parts * (
    1 - 1 / mesh.fsdp) / fast
  copies = mesh.data * (1 - 1 / max(1, mesh.data))
  sent += 2 * 4 * parameters / (mesh.fsdp * mesh.tensor) * (
    copies / max(1, mesh.data)) / fast
  if mesh.slices > 1:
    group = min(fast, chip.network_rate)
    sent += 2 * 4 * parameters / (mesh.fsdp * mesh.tensor) / group
  if mesh.tensor > 1:  # Sums of two products a block, there and back.
    sent += 2 * 2 * passes * array * mesh.tensor * config.model.depth / fast
  return sent / 2


def best(config: ConfigDict, pod: chips.Topology, params: PyTree,
         forward_flops: float | int, count: int) -> list[Candidate]:
  """The fastest by the formulas that may fit, of different meshes first."""
  total = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
  usable = pod.chip.of_device().usable
  found = []
  for one in space(config, pod, params):
    guess = estimate(one.config, pod, total, forward_flops)
    order = (0, guess.seconds) if guess.may_fit(usable) else (1, guess.bytes)
    found.append((*order, len(found), one))
  found.sort(key=lambda item: item[:3])
  return _varied([item[-1] for item in found], count)


def _varied(ordered: Sequence[Candidate], count: int) -> list[Candidate]:
  """The first ones, no more than two of a mesh."""
  taken, meshes = [], {}
  for one in ordered:
    mesh = tuple(sorted(one.config.mesh.items()))
    if meshes.get(mesh, 0) < 2:
      meshes[mesh] = meshes.get(mesh, 0) + 1
      taken.append(one)
    if len(taken) == count:
      break
  return taken
