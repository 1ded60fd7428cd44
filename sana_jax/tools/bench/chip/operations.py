"""Both operations of the transformer by XLA and by kernel, both passes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from sana_jax.tools.bench.chip.sizes import Sizes
from sana_jax.tools.bench.chip.stages import Row
from sana_jax.tools.bench.ops import cases
from sana_jax.tools.bench.ops import measure as measures
from sana_jax.tools.bench.ops.cases import Case

# On a CPU another form by XLA stands for a kernel, so that a test has both.
KERNELS = {'gpu': ('mosaic_gpu',), 'tpu': ('mosaic_tpu',),
           'cpu': ('xla_chunked', 'xla_jvp')}
PASSES = {'forward': False, 'training': True}


def measure(
    budget: Callable[[], float], sizes: Sizes, earlier: Mapping[str, Any],
    op: str,
) -> Iterator[Row]:
  """Yields a row for each case, pass and backend, XLA's first.

  A backend is compared with the definition in float32 before it is timed.
  """
  del earlier
  for case in of_op(op, sizes):
    for name, training in PASSES.items():
      for backend in ('xla', *kernels_of(op)):
        if budget() < 0:
          return
        (record,) = measures.measure(case, training, [backend], sizes.rounds)
        yield f'{case.where}, {name}, {backend}', row(record)


def of_op(op: str, sizes: Sizes) -> list[Case]:
  """What the models call it with, at the shape of each."""
  found = [case for model, size, batch in sizes.models
           for case in cases.of_models([model], [size], batch, sizes.dtype)]
  return [case for case in found if case.op == op]


def kernels_of(op: str) -> list[str]:
  """Names of its backends for the device that is here."""
  mine = KERNELS[jax.default_backend()]
  return [name for name in measures.implementations(op) if name in mine]


def row(record: measures.Record) -> dict[str, Any]:
  """Of one backend; bytes are what must be read and written at least."""
  if record.problem:
    return {'problem': record.problem}
  case, training = record.case, record.training
  return {'seconds': record.best, 'bytes': case.bytes(training),
          'flops': case.flops(training), 'error': record.error,
          'shape': list(case.shape)}
