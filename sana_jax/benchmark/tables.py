"""Tables of a benchmark, as text, in a page and as JSON."""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any

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


def to_json(run: Any) -> str:
  """All of a dataclass, for later."""
  return json.dumps(dataclasses.asdict(run), indent=1) + '\n'
