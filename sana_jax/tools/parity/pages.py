"""The ledger as a table, a page of the docs, and JSON, the source of both."""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import json
import math
from typing import Any

from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.printable import counted
from sana_jax.tools.parity.ledger import Record
from sana_jax.tools.report import wrapped

NAMES = {
  'sana': 'The transformer',
  'controlnet': 'The ControlNet',
  'lora': 'Adapters (LoRA, DoRA, LoKr)',
  'dc_ae': 'The autoencoder (DC-AE)',
  'gemma2': 'The text encoder (Gemma-2)',
  'nvila': "SANA-1.5's judge (NVILA)",
  'text': 'Prompts',
  'samplers': 'Samplers and schedulers',
  'optim': 'Optimizers',
  'pipeline': 'Whole pipelines',
  'controlnet_pipeline': 'Whole pipelines with a ControlNet',
  'sprint': 'SANA-Sprint',
  'ladd': 'The discriminator of SANA-Sprint',
  'distillation': 'Losses and gradients of SANA-Sprint',
  'clip': 'The CLIP score',
}
_TITLE = '# Parity ledger\n'
_INTRODUCTION = """\
Comparison of this project with its references, diffusers and transformers in
PyTorch on a CPU, with the same random weights and inputs. Errors are relative,
‖ours − reference‖ / ‖reference‖ over all elements. Bounds in float32: 1e-5 for
a module, 1e-4 for 20 steps of a pipeline. In bfloat16, both are compared with
the reference in float32; the bound is 1.05 times the reference's own error in
the same run or its error at full size, whichever is larger.

This page is made from parity.json by `sana-jax parity --from-json
docs/parity.json --out docs`. `sana-jax parity` measures with new random values
in every run; `sana-jax parity --quick` takes minutes. Which devices have run
what is in [status](status.md).
"""


@dataclasses.dataclass(frozen=True)
class Ledger:
  """Records, their seed, and the setup of their measurement."""

  records: list[Record]
  seed: int
  date: str
  device: str
  versions: dict[str, str]


def to_json(ledger: Ledger) -> str:
  """JSON with one record per line and infinite errors as strings."""
  rows = []
  for record in ledger.records:
    row = dataclasses.asdict(record)
    row['seconds'] = round(row['seconds'], 2)
    for key in ('error', 'bound'):
      if not math.isfinite(row[key]):
        row[key] = str(row[key])
    rows.append('  ' + json.dumps(row))
  facts = {
    f.name: getattr(ledger, f.name)
    for f in dataclasses.fields(ledger)
    if f.name != 'records'
  }
  head = json.dumps(facts, indent=1).removesuffix('\n}')
  return f'{head},\n "records": [\n' + ',\n'.join(rows) + '\n ]\n}\n'


def from_json(text: str | bytes) -> Ledger:
  """Inverse of `to_json`; raises UserError if the text is invalid."""
  try:
    facts = parse_json(text)
    rows = facts.pop('records')
    return Ledger([_record(row) for row in rows], **facts)
  except (ValueError, TypeError, KeyError, AttributeError) as e:
    raise UserError(
      f'This is not a parity.json ({e}); give a file that '
      'sana-jax parity --out wrote.',
      key='--from-json',
      allowed=('parity.json',),
    ) from e


def _record(row: dict[str, Any]) -> Record:
  return Record(**row | {k: float(row[k]) for k in ('error', 'bound')})


def table(records: Sequence[Record]) -> str:
  """Plain-text table; failures come last, with their exceptions."""
  records = sorted(records, key=lambda r: not r.passed)
  rows = [('area', 'what', 'size', 'dtype', 'error', 'bound', 'verdict', 's')]
  rows += [(r.area, *_cells(r)) for r in records]
  widths = [max(map(len, column)) for column in zip(*rows)]
  right = (4, 5, 7)
  lines = [
    '  '.join(
      cell.rjust(w) if i in right else cell.ljust(w)
      for i, (cell, w) in enumerate(zip(row, widths))
    ).rstrip()
    for row in rows
  ]
  failed = [r for r in records if not r.passed]
  if failed:
    lines.insert(len(rows) - len(failed), '')
  lines += [f'  {r.area}: {r.what}: {r.problem}' for r in failed if r.problem]
  return '\n'.join([*lines, '', summary(records)])


def summary(records: Sequence[Record]) -> str:
  """One-line summary."""
  failed = sum(not r.passed for r in records)
  seconds = sum(r.seconds for r in records)
  rows = counted(len(records), 'row')
  if failed:
    return f'{failed} OF {rows.upper()} FAILED ({seconds:.0f} s).'
  if len(records) == 1:
    return f'The row holds ({seconds:.0f} s).'
  return f'All {rows} hold ({seconds:.0f} s).'


def result(ledger: Ledger) -> str:
  """First sentence of the page."""
  records = ledger.records
  worst = [
    max((r.error for r in records if r.dtype == kind), default=0.0)
    for kind in ('float32', 'bfloat16')
  ]
  return wrapped(
    f'{summary(records).rstrip(".")}, measured on {ledger.date} on a '
    f'{ledger.device}; the largest errors are {worst[0]:.0e} in float32 and '
    f'{worst[1]:.0e} in bfloat16.'
  )


def markdown(ledger: Ledger, picture: str = '') -> str:
  """Markdown page, with the file `picture` at its top."""
  records = ledger.records
  versions = ', '.join(f'{k} {v}' for k, v in ledger.versions.items())
  counts = Counter(r.area for r in records)
  lines = [
    _TITLE,
    result(ledger),
    '',
    *([f'![Errors of all rows]({picture})', ''] if picture else []),
    _INTRODUCTION,
    f'- measured: {ledger.date}',
    f'- device: {ledger.device}',
    f'- versions: {versions}',
    f'- seed: {ledger.seed}',
    '',
    '| area | rows | worst error in its bound | of |',
    '|---|---|---|---|',
  ]
  for area in counts:
    worst = max((r for r in records if r.area == area), key=_share)
    lines.append(
      f'| {NAMES.get(area, area)} | {counts[area]} '
      f'| {_share(worst):.0%} | {worst.what}, {worst.size}, '
      f'{worst.dtype} |'
    )
  for area in counts:
    lines += [
      '',
      f'## {NAMES.get(area, area)}',
      '',
      '| what | size | dtype | error | bound | verdict | seconds | against |',
      '|---|---|---|---|---|---|---|---|',
    ]
    lines += [
      f'| {" | ".join(_cells(r))} | {r.against} |'
      for r in records
      if r.area == area
    ]
  failed = [r for r in records if r.problem]
  if failed:
    lines += ['', '## Errors', '']
    lines += [f'- {r.area}, {r.what}: `{r.problem}`' for r in failed]
  return '\n'.join(lines) + '\n'


def _cells(r):
  return (
    r.what,
    r.size,
    r.dtype,
    f'{r.error:.1e}',
    f'{r.bound:.1e}',
    r.verdict,
    f'{r.seconds:.1f}',
  )


def _share(r):
  """Error as a fraction of the bound; 0 / 0 is 0."""
  if r.bound == 0:
    return 0.0 if r.error == 0 else math.inf
  return r.error / r.bound
