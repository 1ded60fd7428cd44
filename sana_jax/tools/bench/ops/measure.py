"""Times backends of an op alternately, after checking their results."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from sana_jax.analysis.device import timer
from sana_jax.kernels import UnsupportedError
from sana_jax.tools.bench.ops.cases import Case, OPS, Row

BOUNDS = {'float32': 1e-5, 'bfloat16': 2e-2, 'float16': 5e-3}


@dataclasses.dataclass(frozen=True)
class Record(Row):
  """Timing of a backend.

  Attributes:
    seconds: seconds of a call, by round; empty if it did not run.
    error: relative error of the worst result or gradient against float32.
  """

  seconds: list[float] = dataclasses.field(default_factory=list)
  error: float | None = None

  @property
  def best(self) -> float:
    """Minimum, since noise only adds to a time."""
    return min(self.seconds, default=math.nan)


def implementations(op: str) -> list[str]:
  """Backends of an op, the definition first."""
  return ['xla', *OPS[op].kernels]


def measure(
  case: Case,
  training: bool,
  backends: list[str],
  rounds: int,
  others: Mapping[str, Callable[[], Any]] | None = None,
) -> list[Record]:
  """Records of each backend and of each of `others`, timers of a call.

  A backend whose error is too large is not timed.
  """
  inputs, dout = case.arguments()
  want = reference(case, training, inputs, dout)
  timers, facts = {}, {}
  for backend in backends:
    try:
      run = functools.partial(program(case, training, backend), inputs, dout)
      error = relative_error(run(), want)
    except UnsupportedError as e:
      facts[backend] = dict(problem=f'cannot run: {_first_line(e)}')
    except Exception as e:  # A compiler's error ends one row, not the run.
      problem = f'failed: {type(e).__name__}: {_first_line(e)}'
      facts[backend] = dict(problem=problem)
    else:
      facts[backend] = dict(error=error)
      if error <= BOUNDS[case.dtype]:
        timers[backend] = timer(run)
      else:
        facts[backend]['problem'] = f'wrong: its error is {error:.1e}'
  timers.update(others or {})
  seconds = {name: [] for name in (*facts, *timers)}
  for _ in range(rounds):
    for name, seconds_of_a_call in timers.items():
      seconds[name].append(seconds_of_a_call())
  blank = Record(**vars(case), training=training)
  return [
    dataclasses.replace(
      blank, backend=name, seconds=found, **facts.get(name, {})
    )
    for name, found in seconds.items()
  ]


def _first_line(error):
  """First line of an error; JAX adds lines about tracebacks."""
  return (str(error).splitlines() or [''])[0][:200]


def program(
  case: Case, training: bool, backend: str, formats: Any = None
) -> Callable[..., tuple]:
  """Compiled (inputs, dout) -> (result,), and in training its gradients.

  `formats` are the memory layouts of the arguments.
  """
  f = lambda *x: case.call(*x, implementation=backend)

  def run(inputs, dout):
    if not training:
      return (f(*inputs),)
    out, back = jax.vjp(f, *inputs)
    return out, *back(dout)

  return jax.jit(run, out_shardings=formats)


def reference(case: Case, training: bool, inputs, dout) -> tuple:
  """Expected result of `program`, in float32."""
  wide = [x.astype(jnp.float32) for x in (*inputs, dout)]
  exact = dataclasses.replace(case, dtype='float32')
  with jax.default_matmul_precision('highest'):
    return program(exact, training, 'xla')(tuple(wide[:-1]), wide[-1])


def relative_error(got: tuple, want: tuple) -> float:
  """Largest relative error of several arrays."""
  return max(float(_relative(a, b)) for a, b in zip(got, want, strict=True))


@jax.jit
def _relative(got, want):
  got = got.astype(jnp.float32)
  return jnp.linalg.norm((got - want).ravel()) / jnp.linalg.norm(want.ravel())
