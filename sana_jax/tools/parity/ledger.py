"""Parity ledger: comparisons with the references, and their measured errors.

A `Case` is a comparison with a bound on its error; `run` measures cases and
returns a `Record` of each, also of those that fail. pages.py formats records.
"""

from collections.abc import Callable, Iterable
import dataclasses
import gc
import math
import time
import traceback
from typing import NamedTuple

import numpy as np

# Bounds of float32 modules, and of pipelines of 20 steps.
MODULE, PIPELINE = 1e-5, 1e-4
# The references' bfloat16 errors at full size, always allowed.
BFLOAT16 = {'sana': 1.8e-2, 'dc_ae': 1.9e-2, 'gemma2': 1.3e-2, 'nvila': 0}


class Measured(NamedTuple):
  """An error and its bound, measured in the same run."""

  error: float
  bound: float


@dataclasses.dataclass(frozen=True)
class Case:
  """A comparison.

  `measure` takes the seed and returns the error, or `Measured` if the bound
  comes from the same run (bfloat16).
  """

  area: str
  what: str
  size: str
  dtype: str
  bound: float
  measure: Callable[[int], 'float | Measured']
  quick: bool = True
  against: str = 'diffusers'

  @property
  def name(self) -> str:
    return f'{self.area}: {self.what}, {self.size}, {self.dtype}'


@dataclasses.dataclass(frozen=True)
class Record:
  """Result of a case; `problem` is the exception that ended it."""

  area: str
  what: str
  size: str
  dtype: str
  against: str
  quick: bool
  error: float
  bound: float
  seconds: float
  problem: str = ''

  @property
  def passed(self) -> bool:
    return not self.problem and self.error <= self.bound

  @property
  def verdict(self) -> str:
    return 'ok' if self.passed else 'ERROR' if self.problem else 'FAILED'


def relative_error(got: object, want: object) -> float:
  """||got - want|| / ||want|| over all elements, in float64.

  Infinite if shapes differ or a value is not finite.
  """
  got, want = np.asarray(got), np.asarray(want)
  if got.shape != want.shape:
    return math.inf
  got, want = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
  difference, size = np.linalg.norm(got - want), np.linalg.norm(want)
  if not np.isfinite(difference) or not np.isfinite(size):
    return math.inf
  if size == 0:
    return 0.0 if difference == 0 else math.inf
  return float(difference / size)


def bfloat16(area: str, ours: object, theirs: object, want: object) -> Measured:
  """Error of sana_jax's bfloat16 result, bounded by the reference's.

  Both are against float32. 1.05 allows another order of sums.
  """
  return Measured(
    relative_error(ours, want),
    max(1.05 * relative_error(theirs, want), BFLOAT16[area]),
  )


def averaged(
  measure: Callable[[int], Measured], draws: int = 4
) -> Callable[[int], Measured]:
  """Means over several draws of weights and inputs.

  The error of a single small bfloat16 model varies with its draw.
  """

  def mean(seed):
    seeds = np.random.SeedSequence(seed).generate_state(draws).tolist()
    return Measured(*np.mean([measure(s) for s in seeds], axis=0))

  return mean


def run(
  cases: Iterable[Case],
  seed: int,
  on_record: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
  """Measures the cases; calls `on_record` with each record."""
  records = []
  for case in cases:
    records.append(measure(case, seed))
    on_record(records[-1])
    if not case.quick:
      gc.collect()  # Frees its models before the next.
  return records


def measure(case: Case, seed: int) -> Record:
  """Measures one case; an exception gives a record too."""
  start, problem = time.perf_counter(), ''
  error, bound = math.inf, case.bound
  try:
    result = case.measure(seed)
    if isinstance(result, Measured):
      error, bound = map(float, result)
    else:
      error = float(result)
  except Exception as e:  # noqa: BLE001
    problem = describe(e)
  return Record(
    case.area,
    case.what,
    case.size,
    case.dtype,
    case.against,
    case.quick,
    error,
    bound,
    time.perf_counter() - start,
    problem,
  )


def describe(e: Exception) -> str:
  """An exception in one line, with its innermost line of this project."""
  frames = traceback.extract_tb(e.__traceback__)
  ours = [f for f in frames if 'site-packages' not in f.filename] or frames
  where = ours[-1].filename.replace('\\', '/').rpartition('/')[2]
  message = ' '.join(str(e).split())[:300]
  return f'{type(e).__name__}: {message} ({where}:{ours[-1].lineno})'
