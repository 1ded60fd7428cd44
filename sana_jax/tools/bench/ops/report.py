"""What `sana-jax bench kernels` says: measured, or compiled for other chips."""

from sana_jax.tools.bench.ops import compiled, measure
from sana_jax.tools.bench.ops.cases import Case
from sana_jax.tools.report import columns, Report, Rows, Run

_MIB = 2**20


def _shape(r):
  """With its type."""
  return f'{r.dtype} ' + 'x'.join(map(str, r.shape))


def _call(record_left: dict) -> dict:
  """Columns that both tables begin with."""
  return {
    'op': lambda r: r.op,
    'shape': _shape,
    'pass': lambda r: 'training' if r.training else 'forward',
    'by': lambda r: r.backend,
  } | record_left


def _measured(run: Run) -> Rows:
  key = lambda r: (r.op, tuple(r.shape), r.dtype, r.training)
  plain = {key(r): r.best for r in run.records if r.backend == 'xla'}
  copy, product = run.facts['copy_bytes'], run.facts['matmul_flops']
  moved = lambda r: r.case.bytes(r.training) / r.best
  flops = lambda r: r.case.flops(r.training) / r.best
  return columns(
    [r for r in run.records if r.seconds],
    _call(
      {
        'ms': lambda r: f'{r.best * 1e3:.3g}',
        'GB/s': lambda r: f'{moved(r) / 1e9:.3g}',
        'of copy': lambda r: f'{moved(r) / copy:.0%}',
        'TFLOP/s': lambda r: f'{flops(r) / 1e12:.3g}',
        'of matmul': lambda r: f'{flops(r) / product:.0%}',
        'by XLA': lambda r: (
          f'{r.best / plain[key(r)]:.2f}' if plain.get(key(r)) else ''
        ),
        'error': lambda r: '' if r.error is None else f'{r.error:.0e}',
      }
    ),
  )


def _compiled(run: Run) -> Rows:
  mib = lambda size: '' if size is None else f'{size / _MIB:,.1f}'
  least = lambda r: Case(r.op, tuple(r.shape), r.dtype).bytes(r.training)
  return columns(
    [r for r in run.records if not r.problem],
    _call(
      {
        'least MiB': lambda r: mib(least(r) / run.facts['devices']),
        'moved MiB': lambda r: mib(r.moved),
        'temporary MiB': lambda r: mib(r.temporary),
        'Mcycles': lambda r: (
          '' if r.cycles is None else f'{r.cycles / 1e6:.2f}'
        ),
        'kernels': lambda r: str(r.kernels),
        'collectives': lambda r: ', '.join(
          f'{n} {kind}' for kind, n in r.collectives.items()
        ),
      }
    ),
  )


def _title(run):
  """What the device does at best."""
  copy, product = run.facts['copy_bytes'], run.facts['matmul_flops']
  return (
    f'{run.device}: a large copy moves {copy / 1e9:.3g} GB/s, a large '
    f'product reaches {product / 1e12:.3g} TFLOP/s'
  )


def problems(run: Run) -> list[str]:
  """A sentence for each reason why a backend is not in the table."""
  found = {}
  for r in run.records:
    if r.problem:
      found.setdefault((r.op, r.backend, r.problem), []).append(r)
  return [
    f'{op} by {backend} {problem} ({len(all_)} rows).'
    for (op, backend, problem), all_ in found.items()
  ]


def _notes(run):
  where = dict.fromkeys((_shape(r), r.where) for r in run.records)
  return [*(f'- {s}: {w}' for s, w in where), '', *problems(run)]


def wrong(run: Run) -> bool:
  """Whether anything ran that is not right, or should have been."""
  return any(r.problem.startswith(('wrong', 'failed')) for r in run.records)


MEASURED = Report(
  'kernels.md',
  'kernels-*.json',
  """# Operations: measured speed

Milliseconds of one call, the best of several rounds in which all sides take
turns. `training` is the forward and the backward pass in one program. `GB/s`
counts what must be read and written at least (forward q, k, v and the result,
or x and the result; backward all of these again and their gradients), and `of
copy` compares it with a large copy on the same device in the same run; `of
matmul` compares products and taps with a large product. `by XLA` is the time by
that of plain XLA: below 1 is faster. `error` is relative to float32, of the
result or the worst gradient. Shapes are those that the models named below call
with.

Made by `sana-jax bench kernels --out docs/bench`; each table's command is above
it.
""",
  measure.Record,
  _measured,
  4,
  _title,
  _notes,
)

COMPILED = Report(
  'kernels_compiled.md',
  'compiled-kernels-*.json',
  """# Operations: compiled for chips that are not here

What the compilers of the chips say; nothing has run. `least` is what must be
read and written: inputs, results and in training their gradients. `moved` is
what XLA counts for its program (a kernel states it itself; XLA for GPUs does
not count). `temporary` is the memory it needs besides inputs and outputs.
`Mcycles` is how long XLA for TPUs believes that its own program takes, in
millions of cycles; it does not know of kernels. All of one chip.

Made by `sana-jax bench kernels --compile-for TOPOLOGY --out docs/bench`; each
table's command is above it.
""",
  compiled.Record,
  _compiled,
  4,
  notes=problems,
  how=lambda run: 'Compiled',
)
