"""Benchmark reports: tables, pages of the docs, and their JSON source."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
from typing import Any

from sana_jax.errors import UserError
from sana_jax.files import parse_json

_PAGES = pathlib.Path(__file__).parent / 'pages'
Rows = Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Run:
  """Records and the setup of their measurement.

  Attributes:
    facts: other values for the table.
    note: text for the page.
  """

  records: list[Any]
  device: str  # Or a topology.
  date: str
  versions: dict[str, str]
  command: str
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Report:
  """Format of a command's tables and page.

  Attributes:
    page: name of the page; its introduction is in pages/.
    files: pattern of its JSON files.
    record: type of a run's records.
    rows: cells of the table, header first.
    left: number of left-aligned columns.
    title: title of a run.
    notes: lines below the table.
    how: 'Measured' or 'Compiled'.
  """

  page: str
  files: str
  record: Callable[..., Any]
  rows: Callable[[Run], Rows]
  left: int = 1
  title: Callable[[Run], str] = lambda run: run.device
  notes: Callable[[Run], list[str]] = lambda run: []
  how: Callable[[Run], str] = lambda run: 'Measured'

  def table(self, run: Run) -> str:
    """Plain-text table."""
    return '\n'.join(
      [self.title(run), *plain(self.rows(run), self.left), *self.notes(run)]
    )

  def markdown(self, runs: Sequence[Run]) -> str:
    """Page with a table for each run."""
    lines = [fixed(self.page)]
    for run in runs:
      line = f'*{self.how(run)}* {run.date} with {listed(run.versions)}.'
      lines += [
        f'## {self.title(run)}',
        '',
        f'`{run.command}`',
        '',
        f'{line} {run.note}'.rstrip(),
        '',
        *markdown(self.rows(run), self.left),
        '',
      ]
      if notes := self.notes(run):
        lines += [*notes, '']
    return '\n'.join(lines)

  def from_json(self, text: str | bytes) -> Run:
    """Reads the output of `to_json`; raises UserError if it is invalid."""
    try:
      facts = parse_json(text)
      facts['records'] = [self.record(**x) for x in facts['records']]
      return Run(**facts)
    except (ValueError, TypeError, KeyError, AttributeError) as e:
      raise UserError(
        f'This is not what sana-jax bench wrote ({e}); give a '
        'file of the same command.'
      ) from e


def fixed(page: str) -> str:
  """Fixed introduction of a page, a file of the package."""
  return (_PAGES / page).read_text(encoding='utf-8')


def columns(
  records: Sequence[Any], cells: Mapping[str, Callable[[Any], str]]
) -> Rows:
  """A header and a row for each record, from functions by column."""
  return [
    tuple(cells),
    *(
      tuple(cell(r).replace('|', ' ') for cell in cells.values())
      for r in records
    ),
  ]


def plain(cells: Rows, left: int) -> list[str]:
  """Lines of a text table with `left` left-aligned columns."""
  widths = [max(map(len, column)) for column in zip(*cells)]
  return [
    '  '.join(
      c.ljust(w) if i < left else c.rjust(w)
      for i, (c, w) in enumerate(zip(row, widths))
    ).rstrip()
    for row in cells
  ]


def markdown(cells: Rows, left: int) -> list[str]:
  """Lines of a Markdown table; the first row is its header."""
  head, *body = cells
  return [
    f'| {" | ".join(head)} |',
    f'|{"---|" * left}{"--:|" * (len(head) - left)}',
    *(f'| {" | ".join(row)} |' for row in body),
  ]


def versions(*packages: str) -> dict[str, str]:
  """Versions of the installed packages among these."""
  found = {}
  for name in packages:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def listed(versions: dict[str, str]) -> str:
  """Packages and versions as text."""
  return ', '.join(f'{k} {v}' for k, v in versions.items())


def to_json(run: Run) -> str:
  """JSON of a run."""
  return json.dumps(dataclasses.asdict(run), indent=1) + '\n'
