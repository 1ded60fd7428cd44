"""The transformer's ops by XLA and by kernel, forward and backward."""

from collections.abc import Callable, Iterator, Mapping
import itertools
from typing import Any

import jax

from sana_jax.tools.bench.chip.sizes import Sizes
from sana_jax.tools.bench.chip.stages import Row
from sana_jax.tools.bench.ops import cases
from sana_jax.tools.bench.ops import measure as measures
from sana_jax.tools.bench.ops.cases import Case

# On a CPU, another XLA form replaces a kernel, so that tests cover both.
KERNELS = {
  'gpu': ('mosaic_gpu',),
  'tpu': ('mosaic_tpu',),
  'cpu': ('xla_chunked', 'xla_jvp'),
}
PASSES = {'forward': False, 'training': True}


def measure(
  budget: Callable[[], float],
  sizes: Sizes,
  earlier: Mapping[str, Any],
  op: str,
) -> Iterator[Row]:
  """Yields a row for each backend, case and pass.

  XLA comes first: a kernel that hangs ends the stage. A backend is compared
  with the float32 definition before it is timed.
  """
  del earlier
  passes = itertools.product(
    ('xla', *kernels_of(op)), of_op(op, sizes), PASSES.items()
  )
  for backend, case, (name, training) in passes:
    if budget() < 0:
      return
    (record,) = measures.measure(case, training, [backend], sizes.rounds)
    yield f'{case.where}, {name}, {backend}', row(record)


def of_op(op: str, sizes: Sizes) -> list[Case]:
  """Calls of an op by the models."""
  found = [
    case
    for model, size, batch in sizes.models
    for case in cases.of_models([model], [size], batch, sizes.dtype)
  ]
  return [case for case in found if case.op == op]


def kernels_of(op: str) -> list[str]:
  """Names of an op's kernels for this device."""
  mine = KERNELS[jax.default_backend()]
  return [name for name in measures.implementations(op) if name in mine]


def row(record: measures.Record) -> dict[str, Any]:
  """Row of a backend; bytes are the least that it reads and writes."""
  if record.problem:
    return {'problem': record.problem}
  return {
    'seconds': record.best,
    'bytes': record.bytes(record.training),
    'flops': record.flops(record.training),
    'error': record.error,
    'shape': list(record.shape),
  }
