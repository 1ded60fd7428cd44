"""Tables of a benchmark, as text, in a page and as JSON."""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from sana_jax.errors import UserError
from sana_jax.files import parse_json

Cells = Sequence[Sequence[str]]


def plain(cells: Cells, left: int) -> list[str]:
  """Lines of text; the first `left` columns begin at the left."""
  widths = [max(map(len, column)) for column in zip(*cells)]
  return ['  '.join(
    c.ljust(w) if i < left else c.rjust(w)
    for i, (c, w) in enumerate(zip(row, widths))).rstrip() for row in cells]


def markdown(cells: Cells, left: int) -> list[str]:
  """Lines of a table of Markdown; the first row is its head."""
  head, *body = cells
  return [f'| {" | ".join(head)} |',
          f'|{"---|" * left}{"--:|" * (len(head) - left)}',
          *(f'| {" | ".join(row)} |' for row in body)]


def listed(versions: dict[str, str]) -> str:
  """Packages and versions in a line."""
  return ', '.join(f'{k} {v}' for k, v in versions.items())


def opening(run: Any, title: str, how: str = '*Measured*') -> list[str]:
  """Lines above a run's tables: its command, date, versions and note."""
  note = getattr(run, 'note', '')
  return [f'## {title}', '', f'`{run.command}`', '',
          f'{how} {run.date} with {listed(run.versions)}.'
          + (f' {note}' if note else ''), '']


def to_json(run: Any) -> str:
  """All of a dataclass, for later."""
  return json.dumps(dataclasses.asdict(run), indent=1) + '\n'


def from_json(text: str | bytes, kind: type, **parts: type) -> Any:
  """The inverse; `parts` are the types of fields that are dataclasses, or
  lists of them.

  Raises UserError where the text is no such thing.
  """
  try:
    facts = parse_json(text)
    for name, part in parts.items():
      value = facts[name]
      facts[name] = ([part(**x) for x in value] if isinstance(value, list)
                     else part(**value))
    return kind(**facts)
  except (ValueError, TypeError, KeyError, AttributeError) as e:
    raise UserError(f'This is not what sana-jax bench wrote ({e}); give a file '
                    'of the same command.') from e
