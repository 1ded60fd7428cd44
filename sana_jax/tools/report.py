"""Benchmark reports: tables, pages of the docs, and their JSON source."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import textwrap
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
class Bars:
  """Content of a bar plot.

  Attributes:
    axis: what the bars measure, with its unit.
    groups: values by group, and in it by series.
    form: format of a value's label.
  """

  title: str
  axis: str
  groups: Mapping[str, Mapping[str, float]]
  form: str = '.3g'
  log: bool = False


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
    result: first sentence of the page, of its runs.
    bars: content of the page's plot.
  """

  page: str
  files: str
  record: Callable[..., Any]
  rows: Callable[[Run], Rows]
  left: int = 1
  title: Callable[[Run], str] = lambda run: run.device
  notes: Callable[[Run], list[str]] = lambda run: []
  how: Callable[[Run], str] = lambda run: 'Measured'
  result: Callable[[Sequence[Run]], str] = lambda runs: ''
  bars: Callable[[Sequence[Run]], Bars] | None = None

  @property
  def picture(self) -> str:
    """File name of the plot; '' if there is none."""
    return self.page.replace('.md', '.png') if self.bars else ''

  def table(self, run: Run) -> str:
    """Plain-text table."""
    return '\n'.join(
      [self.title(run), *plain(self.rows(run), self.left), *self.notes(run)]
    )

  def markdown(self, runs: Sequence[Run], picture: str = '') -> str:
    """Page with a table for each run, and the file `picture` above them."""
    lines = [opened(fixed(self.page), self.result(runs), picture)]
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
        'file of the same command.',
        key='--render',
        allowed=('sana-jax bench',),
      ) from e


def fixed(page: str) -> str:
  """Fixed introduction of a page, a file of the package."""
  return (_PAGES / page).read_text(encoding='utf-8')


def opened(page: str, result: str, *pictures: str) -> str:
  """A page with its result, and pictures by file name, below its title."""
  title, _, rest = page.partition('\n\n')
  shown = [f'![{title.lstrip("# ")}]({name})' for name in pictures if name]
  return '\n\n'.join([title, *filter(None, [wrapped(result)]), *shown, rest])


def wrapped(text: str) -> str:
  """Text in lines of 80 columns."""
  return textwrap.fill(text, 80, break_long_words=False, break_on_hyphens=False)


def joined(parts: Sequence[str]) -> str:
  """Parts of a sentence: 'a', 'a and b', 'a, b and c'."""
  *most, last = parts
  return f'{", ".join(most)} and {last}' if most else last


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
