"""Benchmark records: as a table, a page of the docs, and JSON behind both."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from sana_jax.tools import tables
from sana_jax.tools.bench.request import Request
from sana_jax.tools.bench.workers import OURS

_HEAD = ('stage', 'by', 'seconds', 'images/s', 'TFLOP/s', 'of peak', 'GiB',
         'ratio')
_INTRODUCTION = """# Sampling: measured speed

Seconds of one call, the best of several; both sides in processes of their own,
called in turn (one after the other where both do not fit into memory).
`TFLOP/s` counts products and convolutions, `of peak` compares with a large
matrix product on the same device in the same run. `GiB` is the process's peak
(a GPU's own memory where there is one). `ratio` is our time by theirs: below 1,
we are faster. `whole` adds up the stages of a call. Weights are random; the
first call, which compiles, is not counted.

Made by `sana-jax bench sample --out docs/bench`; each table's command is above
it.
"""


@dataclasses.dataclass(frozen=True)
class Record:
  """One stage of one request by one side.

  Attributes:
    seconds: of each call.
    first_seconds: of the first one, compilation included.
    flops: of one call of ours.
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
    """Noise only ever adds to a time."""
    return min(self.seconds)

  @property
  def peak_bytes(self) -> int:
    """Where the weights are."""
    return self.device_bytes or self.host_bytes


@dataclasses.dataclass(frozen=True)
class Run:
  """Records of one request, and what they were measured with."""

  request: Request
  records: list[Record]
  date: str
  device: str
  matmul_flops: float
  versions: dict[str, str]
  command: str


def records_of(
  stage: str, found: Mapping[str, Mapping[str, Any]]
) -> list[Record]:
  """What `workers.measure` found."""
  names = {f.name for f in dataclasses.fields(Record)}
  return [Record(stage=stage, side=side, **{
    k: v for k, v in values.items() if k in names})
    for side, values in found.items()]


def rows(run: Run) -> list[tuple[str, ...]]:
  """Cells of the table, a row for each stage and side, and for the whole."""
  records = [*run.records, *whole(run.records)]
  ours = {r.stage: r for r in records if r.side == OURS}
  return [_HEAD, *(_row(run, r, ours[r.stage]) for r in records)]


def whole(records: Sequence[Record]) -> list[Record]:
  """By side, the sum over the stages; none where there is one stage."""
  out = []
  for side in dict.fromkeys(r.side for r in records):
    mine = [r for r in records if r.side == side]
    if len(mine) > 1:
      out.append(Record(
        'whole', side, [sum(r.best for r in mine)],
        sum(r.first_seconds for r in mine), sum(r.flops for r in mine),
        max(r.host_bytes for r in mine),
        max(r.device_bytes or 0 for r in mine) or None))
  return out


def _row(run, r, ours):
  mine = r.side == OURS
  rate = ours.flops / r.best
  return (
    r.stage, r.side, f'{r.best:.3g}', f'{run.request.batch / r.best:.3g}',
    f'{rate / 1e12:.3g}' if mine else '',
    f'{rate / run.matmul_flops:.0%}' if mine else '',
    f'{r.peak_bytes / 2**30:.2f}', '' if mine else f'{ours.best / r.best:.2f}')


def title(r: Request) -> str:
  """What was asked for, in a line."""
  return (f'{r.model}, {r.height} x {r.width} px, {r.steps} steps, '
          f'batch {r.batch}, guidance {r.guidance_scale:g}, {r.dtype}')


def table(run: Run) -> str:
  """Plain text."""
  return '\n'.join([title(run.request), *tables.plain(rows(run), 2)])


def markdown(runs: Sequence[Run]) -> str:
  """The page: a table for each run."""
  lines = [_INTRODUCTION]
  for run in runs:
    lines += [
      f'## {title(run.request)}', '', f'`{run.command}`', '',
      f'Measured on {run.device}, {run.date}, {tables.listed(run.versions)}; a '
      f'large product reaches {run.matmul_flops / 1e12:.3g} TFLOP/s.', '',
      *tables.markdown(rows(run), 2), '']
  return '\n'.join(lines)


def from_json(text: str | bytes) -> Run:
  """What `tables.to_json` wrote; UserError where it did not."""
  return tables.from_json(text, Run, records=Record, request=Request)
