"""Records and report of `sana-jax bench sample`."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from sana_jax.printable import counted
from sana_jax.tools.bench.request import Request
from sana_jax.tools.bench.workers import OURS
from sana_jax.tools.report import Bars, columns, joined, Report, Rows, Run


@dataclasses.dataclass(frozen=True)
class Record:
  """One stage of one request by one side.

  Attributes:
    seconds: seconds of each call.
    first_seconds: seconds of the first call, with compilation.
    flops: FLOPs of a call, of sana_jax's side.
  """

  stage: str
  side: str
  seconds: list[float]
  first_seconds: float
  flops: int
  host_bytes: int
  device_bytes: int | None = None

  @property
  def best(self) -> float:
    """Minimum, since noise only adds to a time."""
    return min(self.seconds)

  @property
  def peak_bytes(self) -> int:
    """Peak of the memory that holds the weights."""
    return self.device_bytes or self.host_bytes


def records_of(
  stage: str, found: Mapping[str, Mapping[str, Any]]
) -> list[Record]:
  """Records of the results of `workers.measure`."""
  names = {f.name for f in dataclasses.fields(Record)}
  known = lambda values: {k: v for k, v in values.items() if k in names}
  return [Record(stage, side, **known(x)) for side, x in found.items()]


def whole(records: Sequence[Record]) -> list[Record]:
  """Sum over the stages by side; empty for a single stage."""
  sides = {}
  for r in records:
    sides.setdefault(r.side, []).append(r)
  return [_sum(mine) for mine in sides.values() if len(mine) > 1]


def _sum(records):
  """Sum of all stages of a side."""
  return Record(
    'whole',
    records[0].side,
    [sum(r.best for r in records)],
    sum(r.first_seconds for r in records),
    sum(r.flops for r in records),
    max(r.host_bytes for r in records),
    max(r.device_bytes or 0 for r in records) or None,
  )


def rows(run: Run) -> Rows:
  """Rows of each stage and side, and of the sums."""
  records = [*run.records, *whole(run.records)]
  ours = {r.stage: r for r in records if r.side == OURS}
  rate = lambda r: ours[r.stage].flops / r.best
  product = run.facts['matmul_flops']
  of_ours = lambda cell: lambda r: cell(r) if r.side == OURS else ''
  return columns(
    records,
    {
      'stage': lambda r: r.stage,
      'by': lambda r: r.side,
      'seconds': lambda r: f'{r.best:.3g}',
      'images/s': lambda r: f'{request_of(run).batch / r.best:.3g}',
      'TFLOP/s': of_ours(lambda r: f'{rate(r) / 1e12:.3g}'),
      'of peak': of_ours(lambda r: f'{rate(r) / product:.0%}'),
      'GiB': lambda r: f'{r.peak_bytes / 2**30:.2f}',
      'ratio': lambda r: (
        '' if r.side == OURS else f'{ours[r.stage].best / r.best:.2f}'
      ),
    },
  )


def request_of(run: Run) -> Request:
  """The measured request."""
  return Request(**run.facts['request'])


def title(r: Request) -> str:
  """Title of a request."""
  return (
    f'{r.model}, {r.height} x {r.width} px, {counted(r.steps, "step")}, '
    f'batch {r.batch}, guidance {r.guidance_scale:g}, {r.dtype}'
  )


def _title(run):
  return (
    f'{title(request_of(run))}, {run.device} (a large product reaches '
    f'{run.facts["matmul_flops"] / 1e12:.3g} TFLOP/s)'
  )


def _short(run):
  r = request_of(run)
  return f'{r.model}, {r.height} px, {r.steps} step{"s" * (r.steps > 1)}'


def result(runs: Sequence[Run]) -> str:
  """Sentence with the ratio of each request, or of its only stage."""
  parts = []
  for run in runs:
    records = whole(run.records) or run.records
    ours = [r.best for r in records if r.side == OURS]
    parts += [
      f'{ours[0] / r.best:.2f} of the time of {r.side} ({_short(run)}, '
      f'{r.stage})'
      for r in records
      if r.side != OURS and ours
    ]
  devices = joined(list(dict.fromkeys(run.device for run in runs)))
  if not parts:
    return f'Seconds of each stage of a request, measured on {devices}.'
  return f'Measured on {devices}, sana_jax takes {joined(parts)}.'


def bars(runs: Sequence[Run]) -> Bars:
  """Seconds of each stage by side."""
  groups = {}
  for run in runs:
    for r in run.records:
      sides = groups.setdefault(f'{_short(run)}: {r.stage}', {})
      sides[r.side] = r.best
  device = joined(list(dict.fromkeys(run.device for run in runs)))
  return Bars(f'Measured on {device}', 'seconds, less is better', groups)


SAMPLING = Report(
  'sampling.md',
  'sampling-*.json',
  Record,
  rows,
  2,
  _title,
  result=result,
  bars=bars,
)
