"""Operations compiled for devices that are not here.

The real compiler says what memory a program needs, how often it reads and
writes it and which kernels it calls; it does not say how long that takes.
"""

import dataclasses
import re
import time

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding

from sana_jax.analysis import collectives, hlo, topologies, work
from sana_jax.kernels import UnsupportedError
from sana_jax.tools.bench.ops.cases import Case, Row
from sana_jax.tools.bench.ops.measure import program


@dataclasses.dataclass(frozen=True)
class Record(Row):
  """One backend's program; bytes are of one chip.

  Attributes:
    moved: bytes that are read and written; None where XLA does not count.
    cycles: by XLA's estimate; None where it has none, or there are kernels.
  """

  moved: int | None = None
  temporary: int = 0
  cycles: int | None = None
  kernels: int = 0
  collectives: dict[str, int] = dataclasses.field(default_factory=dict)
  seconds: float = 0.0


def compile_case(
  case: Case, training: bool, backend: str, mesh: Mesh, platform: str
) -> Record:
  """One backend's program; with the reason, where there is none."""
  blank = dict(vars(case), training=training, backend=backend)
  *inputs, dout = _like(case, mesh)
  formats = tuple(x.format for x in (dout, *inputs)[: None if training else 1])
  start = time.perf_counter()
  lower = lambda: program(case, training, backend, formats).lower(
    tuple(inputs), dout
  )
  try:
    done = topologies.compile_for(platform, mesh, lower)
  except UnsupportedError as e:
    return Record(**blank, problem=f'cannot be compiled: {_first_line(e)}')
  except (jax.errors.JaxRuntimeError, topologies.TooLargeError) as e:
    # It ends one row, not the run.
    return Record(**blank, problem=f'failed: {_first_line(e)[:200]}')
  text = done.as_text()
  module = hlo.parse(text)
  moved = (done.cost_analysis() or {}).get('bytes accessed')
  called = sum(work.kernel_names(module).values())
  cycles = [] if called else re.findall(r'"estimated_cycles":"(\d+)"', text)
  return Record(
    **blank,
    moved=None if moved is None else int(moved),
    temporary=done.memory_analysis().temp_size_in_bytes,
    cycles=sum(map(int, cycles)) or None,
    kernels=called,
    collectives=collectives.count(module),
    seconds=time.perf_counter() - start,
  )


def _first_line(error):
  return str(error).splitlines()[0]


def _like(case, mesh):
  """Inputs and the result's gradient, row by row in memory, on the mesh."""
  batch = tuple(a for a in ('data', 'fsdp') if mesh.shape.get(a, 1) > 1) or None
  rows = 'sequence' if mesh.shape.get('sequence', 1) > 1 else None
  for shape in case.flat_shapes():
    spec = jax.P(batch, rows) if shape[0] == case.shape[0] else jax.P()
    rows_first = Layout(tuple(range(len(shape))))
    place = Format(rows_first, NamedSharding(mesh, spec))
    yield jax.ShapeDtypeStruct(shape, case.dtype, sharding=place)
