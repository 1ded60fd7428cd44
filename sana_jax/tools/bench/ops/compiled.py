"""Ops compiled for unattached devices.

The compiler reports the memory and memory traffic of a program and its kernels,
but not its time.
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
  """Compiled program of a backend; bytes are per chip.

  Attributes:
    moved: bytes read and written; None if XLA does not count them.
    cycles: XLA's estimate; None if it has none, or with kernels.
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
  """Record of a backend's program, or of its failure."""
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
    # A failure ends one row, not the run.
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
  """Shapes of inputs and the result's gradient, row-major, on the mesh."""
  batch = tuple(a for a in ('data', 'fsdp') if mesh.shape.get(a, 1) > 1) or None
  rows = 'sequence' if mesh.shape.get('sequence', 1) > 1 else None
  for shape in case.flat_shapes():
    spec = jax.P(batch, rows) if shape[0] == case.shape[0] else jax.P()
    rows_first = Layout(tuple(range(len(shape))))
    place = Format(rows_first, NamedSharding(mesh, spec))
    yield jax.ShapeDtypeStruct(shape, case.dtype, sharding=place)
