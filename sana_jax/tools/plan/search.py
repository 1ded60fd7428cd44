"""Search over meshes, remat, batches and kernels, pruned by cost formulas.

Memory counts the state, saved block inputs and one block's intermediates; time
counts matmuls, memory traffic of a block and communication. The constants are
fitted to the 1.6B at 1024 px, compiled for v5e:16x16 (docs/planning.md). The
formulas rank; the compiler decides.
"""

import collections
from collections.abc import Iterator, Sequence
import itertools
import math
from typing import NamedTuple

from ml_collections import ConfigDict

from sana_jax.analysis import chips
from sana_jax.tools.plan import candidates
from sana_jax.tools.plan.candidates import Candidate, copied
from sana_jax.typing import PyTree

# Arrays [tokens, width] that a block makes, and those saved of them; passes
# over a block in a step, in forward passes; arrays read and written by one.
_ARRAYS = 36
_MOVED = 110
_KEPT = {'none': _ARRAYS, 'dots': 16, 'full': 1, 'offload': 0}
_KEPT_PLAIN = _KEPT | {'none': 60}  # Without kernels, XLA saves more.
_PASSES = {'none': 3.0, 'dots': 3.2, 'full': 4.0, 'offload': 4.1}
_ACCUMULATE = (1, 2, 4, 8)
_AT_ONCE = 2.5  # Live arrays, in units of a block's.
# Kernels make fewer: of the 1.6B's temporaries on a v5p, 0.81 (docs/bench).
_WITH_KERNELS = 0.8
_ROWS = 2.1  # Factor on bytes with split rows, whose borders are copied.
# Arrays of a block sent in a pass: over `tensor`, whole ones; over `sequence`,
# local ones and borders, whose share grows with fewer rows.
_TENSOR, _SEQUENCE, _BORDER = 6, 5, 35
_OPS = ('glumb_conv', 'relu_linear_attention')  # Ops of the transformer.
_HOPPER = ('h100', 'h200')
# State bytes per parameter, besides itself and its EMA.
_MOMENTS = dict(
  came=4, came_8bit=1, came_8bit_rows=1, lion=4, adafactor=0.1, muon=4
)
_WITHIN = 1.0  # Fraction of the memory.
_STATE = 0.85  # Fraction of the memory; the rest is for computing.


class Estimate(NamedTuple):
  """Bytes of the state and in total, and seconds of a step, per device."""

  state: float
  bytes: float
  seconds: float

  def may_fit(self, usable: float) -> bool:
    """Whether it may fit: the state is exact, the rest an estimate."""
    return self.state <= _STATE * usable and self.bytes <= _WITHIN * usable


def space(
  config: ConfigDict,
  pod: chips.Topology,
  params: PyTree,
  batches: Sequence[int] = (),
) -> Iterator[Candidate]:
  """Every mesh, remat, accumulation and kernels that pod and model allow.

  `batches` are images per chip; empty for the config's batch.
  """
  sizes = [n * pod.chips for n in batches] or [config.batch_size]
  for one in _meshes(config, pod):
    for remat, parts, batch in itertools.product(_PASSES, _ACCUMULATE, sizes):
      one.model.remat, one.accumulate_steps = remat, parts
      one.batch_size = batch
      found = candidates.make('', one, pod, params)[0]
      if not found.problem:
        for kernels in _kernels(pod):
          with_them = copied(found.config)
          with_them.kernels.update(kernels)
          yield Candidate(_name(with_them, pod, batches, kernels), with_them)


def _meshes(config, pod):
  """The config with every mesh of whole slices or hosts."""
  slices = candidates.islands(pod)
  count = pod.devices // slices
  ways = [n for n in range(1, count + 1) if count % n == 0]
  for fsdp, tensor, sequence in itertools.product(ways, (1, 2, 4), (1, 2, 4)):
    if count % (fsdp * tensor * sequence):
      continue
    one = copied(config)
    one.mesh.update(
      data=-1, fsdp=fsdp, tensor=tensor, sequence=sequence, slices=slices
    )
    yield one


def _kernels(pod):
  """The config's choice, and this project's kernels if the chip has some."""
  chip = pod.chip
  yield {}
  if not chip.is_gpu or chip.name in _HOPPER:
    yield dict.fromkeys(_OPS, 'mosaic_gpu' if chip.is_gpu else 'mosaic_tpu')


def _name(config, pod, batches, kernels):
  """Name of a candidate, from the settings that differ from the base config."""
  axes = ('fsdp', 'tensor', 'sequence')
  sizes = [(axis, config.mesh[axis]) for axis in axes]
  parts = [f'{axis}{n}' for axis, n in sizes if n > 1]
  parts.append(config.model.remat)
  if config.accumulate_steps > 1:
    parts.append(f'in{config.accumulate_steps}')
  if batches:
    parts.append(f'b{config.batch_size // pod.chips}')
  if kernels:
    parts.append('kernels')
  return '_'.join(parts)


def estimate(
  config: ConfigDict,
  pod: chips.Topology,
  parameters: int,
  forward_flops: float | int,
) -> Estimate:
  """Cost estimate by formulas; `forward_flops` are of one image."""
  chip, mesh, model = pod.chip.of_device(), config.mesh, config.model
  parts, split = config.accumulate_steps, mesh.tensor * mesh.sequence
  images = config.batch_size / (mesh.data * mesh.slices * mesh.fsdp) / parts
  less, kept = (1, _KEPT_PLAIN) if _plain(config) else (_WITH_KERNELS, _KEPT)
  array = images * model.sample_size**2 * model.width * 2 / split
  itself = 2 if config.param_dtype == 'bfloat16' else 4
  moments = _MOMENTS.get(config.optimizer.name, 8)
  state = itself + 4 * (config.ema_decay > 0) + moments
  # float32 gradients and updates; 8-bit moments are decoded.
  gradients = 8 * (1 + (parts > 1))
  gradients += 4 * config.optimizer.name.startswith('came_8bit')
  block = parameters / model.depth
  known = parameters * (state + gradients) / (mesh.fsdp * mesh.tensor)
  arrays = kept[model.remat] * model.depth + _AT_ONCE * _ARRAYS * less
  passes = _PASSES[model.remat]
  work = passes * forward_flops * images * parts / split
  rows = _ROWS if mesh.sequence > 1 else 1
  moved = passes * array * parts * _MOVED * less * model.depth * rows
  short, long = sorted([work / chip.flops, moved / chip.memory_rate])
  talk = _talk(config, pod, parameters, array, passes)
  memory = known + 2 * 2 * block + array * arrays
  return Estimate(known, memory, long + 0.6 * short + talk)


def _plain(config):
  """Whether no kernels are used."""
  return all(config.kernels.get(op, '') in ('', 'xla') for op in _OPS)


def _talk(config, pod, parameters, array, passes):
  """Seconds of communication; half is hidden."""
  mesh, chip, parts = config.mesh, pod.chip.of_device(), config.accumulate_steps
  fast, own = chip.link_rate, parameters / mesh.tensor
  gathers = (passes - 1) * 2 + 4  # bfloat16 weights, float32 gradients.
  sent = own * gathers * parts * (1 - 1 / mesh.fsdp) / fast
  sent += 8 * own / mesh.fsdp * parts * (1 - 1 / mesh.data) / fast
  if mesh.slices > 1:
    sent += 8 * own / mesh.fsdp * parts / min(fast, chip.network_rate)
  # Neighbours share one of a chip's links, or all through a switch.
  near, all_passes = fast / max(1, chip.links), passes * parts * array
  of_blocks = _TENSOR * mesh.tensor if mesh.tensor > 1 else 0
  if mesh.sequence > 1:
    rows = config.model.sample_size / mesh.sequence
    of_blocks += _SEQUENCE + _BORDER / rows
  return (sent + of_blocks * all_passes * config.model.depth / near) / 2


def best(
  config: ConfigDict,
  pod: chips.Topology,
  params: PyTree,
  forward_flops: float | int,
  count: int,
  batches: Sequence[int] = (),
  most: float = math.inf,
) -> list[Candidate]:
  """Candidates that may fit, fewest estimated seconds per image first.

  They fit the chips and `most` bytes, and vary in mesh and kind: remat,
  accumulation and kernels.
  """
  total = candidates.count(params)
  usable = min(most, pod.chip.of_device().usable)
  found = []
  for one in space(config, pod, params, batches):
    guess = estimate(one.config, pod, total, forward_flops)
    order = (1, guess.bytes)
    if guess.may_fit(usable):
      order = (0, guess.seconds / one.config.batch_size)
    found.append((order, one))
  found.sort(key=lambda item: item[0])
  return _varied([one for _, one in found], count)


def _varied(ordered: Sequence[Candidate], count: int) -> list[Candidate]:
  """The first `count`, at most two per mesh and a third per kind."""
  taken, seen = [], collections.Counter()
  for one in ordered:
    config = one.config
    mesh = str(sorted(config.mesh.items()))
    kind = str((config.model.remat, config.accumulate_steps, _plain(config)))
    if seen[mesh] < 2 and seen[kind] < math.ceil(count / 3):
      seen.update([mesh, kind])
      taken.append(one)
    if len(taken) == count:
      break
  return taken
