"""Both operations of the transformer by XLA and by kernel, both passes."""

from collections.abc import Callable, Iterator, Mapping
import itertools
from typing import Any

import jax

from sana_jax.tools.bench.chip.sizes import Sizes
from sana_jax.tools.bench.chip.stages import Row
from sana_jax.tools.bench.ops import cases
from sana_jax.tools.bench.ops import measure as measures
from sana_jax.tools.bench.ops.cases import Case

# On a CPU another form by XLA stands for a kernel, so that a test has both.
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

  XLA's come first: a kernel that hangs ends the stage. A backend is compared
  with the definition in float32 before it is timed.
  """
  del earlier
  asked = itertools.product(
    ('xla', *kernels_of(op)), of_op(op, sizes), PASSES.items()
  )
  for backend, case, (name, training) in asked:
    if budget() < 0:
      return
    (record,) = measures.measure(case, training, [backend], sizes.rounds)
    yield f'{case.where}, {name}, {backend}', row(record)


def of_op(op: str, sizes: Sizes) -> list[Case]:
  """What the models call it with, at the shape of each."""
  found = [
    case
    for model, size, batch in sizes.models
    for case in cases.of_models([model], [size], batch, sizes.dtype)
  ]
  return [case for case in found if case.op == op]


def kernels_of(op: str) -> list[str]:
  """Names of its backends for the device that is here."""
  mine = KERNELS[jax.default_backend()]
  return [name for name in measures.implementations(op) if name in mine]


def row(record: measures.Record) -> dict[str, Any]:
  """Of one backend; bytes are what must be read and written at least."""
  if record.problem:
    return {'problem': record.problem}
  return {
    'seconds': record.best,
    'bytes': record.bytes(record.training),
    'flops': record.flops(record.training),
    'error': record.error,
    'shape': list(record.shape),
  }
