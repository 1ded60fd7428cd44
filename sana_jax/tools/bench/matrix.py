"""The train step in all its variants, each in a process of its own.

So one that does not fit, or brings its device down, costs itself alone, and
none finds the memory in the state that another has left.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax

from sana_jax import compiled, kernels
from sana_jax.analysis import device
from sana_jax.analysis import profile_breakdown as losses
from sana_jax.errors import UserError
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.bench import processes, timing, training


@dataclasses.dataclass(frozen=True)
class Variant:
  """A step: what is computed, and whether by kernels (of timing.SIDES)."""

  request: training.Request
  kernels: str


@dataclasses.dataclass(frozen=True)
class Record:
  """What became of a variant.

  Attributes:
    seconds: of a step, in each round; empty where it failed.
    forward_flops: of the batch.
    failed: why, in a line.
    times: of a profile, by kind of operation, the largest loss first.
    unprofiled: why there is none, in a line.
    peak_bytes: of the fullest device.
  """

  variant: Variant
  seconds: list[float]
  forward_flops: int
  failed: str = ''
  times: list[losses.Time] = dataclasses.field(default_factory=list)
  unprofiled: str = ''
  peak_bytes: int | None = None
  compile_seconds: float = 0.

  @property
  def best(self) -> float:
    """Noise only ever adds to a time."""
    return min(self.seconds)


@dataclasses.dataclass(frozen=True)
class Facts:
  """Devices: their kind, their mesh, and FLOP/s of a product on one."""

  name: str
  mesh: dict[str, int]
  measured: float
  published: float | None

  @property
  def count(self) -> int:
    return math.prod(self.mesh.values())


def variants(
    models: Sequence[tuple[str, int]], remats: Sequence[str],
    sides: Sequence[str], **options: Any,
) -> list[Variant]:
  """All combinations; `models` are (name, batch). UserError if one is wrong."""
  if unknown := [s for s in sides if s not in timing.SIDES]:
    raise UserError(f'--with-kernels has {unknown[0]!r}; allowed are '
                    f'{", ".join(timing.SIDES)}.')
  return [
    Variant(training.request(
      model, batch=batch, remat=remat, **options), side)
    for model, batch in models for remat in remats for side in sides]


class Worker:
  """What a process does for its variant."""

  def __init__(self, mesh: Mapping[str, int], cache: str | None):
    """`cache` keeps compiled programs."""
    compiled.keep(cache)
    self._mesh = make_mesh(mesh)

  def facts(self, dtype: str) -> Facts:
    return Facts(device.name(), dict(self._mesh.shape),
                 device.matmul_rate(dtype),
                 device.peak_flops(jax.devices()[0].device_kind))

  def measure(
      self, variant: Variant, repeats: int, peak: float) -> Record:
    """Times rounds of steps, then traces some."""
    with (jax.set_mesh(self._mesh),
          kernels.prefer(**timing.backends(variant.kernels))):
      step = training.make(variant.request, self._mesh)
      program, compile_seconds = timing.compiled(step)
      state, rest = timing.arguments(step)
      state, found = timing.rounds(program, state, rest, repeats)
      record = Record(
        variant, found, training.forward_flops(variant.request),
        peak_bytes=timing.peak_bytes(), compile_seconds=compile_seconds)
      try:
        profile = timing.profile(program, state, rest)
      except Exception as e:  # noqa: BLE001  It costs the profile alone.
        return dataclasses.replace(
          record, unprofiled=f'{type(e).__name__}: {e}'[:200])
    ideal = 3 * record.forward_flops / self._mesh.size / peak
    return dataclasses.replace(
      record, times=losses.accounted(
        profile.times, profile.places, profile.steps, ideal))


def facts(mesh: Mapping[str, int], dtype: str) -> Facts:
  """Of the devices that are here, from a process that is gone then."""
  with _worker(mesh) as side:
    return side.ask('facts', dtype)


def _worker(mesh):
  return processes.start(
    Worker, dict(mesh), jax.config.jax_compilation_cache_dir)


def records(
    asked: Sequence[Variant], mesh: Mapping[str, int], repeats: int,
    peak: float,
) -> Iterator[Record]:
  """Of each variant in turn; one that fails says so, and the next one runs."""
  for variant in asked:
    try:
      with _worker(mesh) as side:
        yield side.ask('measure', variant, repeats, peak)
    except (UserError, RuntimeError) as e:
      yield Record(variant, [], 0, failed=processes.reason(str(e)))
