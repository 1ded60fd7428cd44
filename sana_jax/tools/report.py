"""Reports of benchmarks: a table, a page of the docs, and JSON behind both."""

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
  """Records, and what they were measured with.

  Attributes:
    facts: other values that the table needs.
    note: for the page.
  """

  records: list[Any]
  device: str  # Or topology.
  date: str
  versions: dict[str, str]
  command: str
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Report:
  """What is said of the runs of a command.

  Attributes:
    page: its name; what stands above the tables is in pages/.
    files: pattern of the JSON files that it is made of.
    record: the type of a run's records.
    rows: cells of the table, the head first.
    left: columns that begin at the left.
    title: of a run, in a line.
    notes: lines below the table.
    how: 'Measured', or what else was done.
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
    """Plain text."""
    return '\n'.join(
      [self.title(run), *plain(self.rows(run), self.left), *self.notes(run)]
    )

  def markdown(self, runs: Sequence[Run]) -> str:
    """The page: a table for each run."""
    lines = [fixed(self.page)]
    for run in runs:
      said = f'*{self.how(run)}* {run.date} with {listed(run.versions)}.'
      lines += [
        f'## {self.title(run)}',
        '',
        f'`{run.command}`',
        '',
        f'{said} {run.note}'.rstrip(),
        '',
        *markdown(self.rows(run), self.left),
        '',
      ]
      if notes := self.notes(run):
        lines += [*notes, '']
    return '\n'.join(lines)

  def from_json(self, text: str | bytes) -> Run:
    """What `to_json` wrote; UserError where it did not."""
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
  """What is the same in each page of a name: a file of the package."""
  return (_PAGES / page).read_text(encoding='utf-8')


def columns(
  records: Sequence[Any], cells: Mapping[str, Callable[[Any], str]]
) -> Rows:
  """A row for each record; by heading, what is in its cell."""
  return [
    tuple(cells),
    *(
      tuple(cell(r).replace('|', ' ') for cell in cells.values())
      for r in records
    ),
  ]


def plain(cells: Rows, left: int) -> list[str]:
  """Lines of text; the first `left` columns begin at the left."""
  widths = [max(map(len, column)) for column in zip(*cells)]
  return [
    '  '.join(
      c.ljust(w) if i < left else c.rjust(w)
      for i, (c, w) in enumerate(zip(row, widths))
    ).rstrip()
    for row in cells
  ]


def markdown(cells: Rows, left: int) -> list[str]:
  """Lines of a table of Markdown; the first row is its head."""
  head, *body = cells
  return [
    f'| {" | ".join(head)} |',
    f'|{"---|" * left}{"--:|" * (len(head) - left)}',
    *(f'| {" | ".join(row)} |' for row in body),
  ]


def versions(*packages: str) -> dict[str, str]:
  """Of those that are installed."""
  found = {}
  for name in packages:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def listed(versions: dict[str, str]) -> str:
  """Packages and versions in a line."""
  return ', '.join(f'{k} {v}' for k, v in versions.items())


def to_json(run: Run) -> str:
  """All of it, for later."""
  return json.dumps(dataclasses.asdict(run), indent=1) + '\n'
