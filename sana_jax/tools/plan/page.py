"""The report as one HTML file with embedded pictures."""

import base64
from collections.abc import Sequence
import html

from sana_jax.analysis.chips import Chip
from sana_jax.tools.plan import pictures, tables
from sana_jax.tools.plan.report import Plan, ranked
from sana_jax.tools.report import fixed


def page(
  title: str,
  plans: Sequence[Plan],
  notes: Sequence[str],
  command: str,
  chip: Chip | None = None,
) -> str:
  """Self-contained HTML."""
  plans = ranked(plans, chip)
  parts = [
    _picture(png, name.removesuffix('.png'))
    for name, png in pictures.all_of(plans, chip).items()
  ]
  parts += [_table(tables.rows(plans, chip)), _list(notes)]
  memory, seconds, *each = tables.sections(plans, chip)
  for heading, found in (memory, seconds):
    parts.append(f'<h2>{html.escape(heading)}</h2>')
    parts += [_table(table.rows) for table in found]
  for heading, found in each:
    parts.append(f'<details><summary>{html.escape(heading)}</summary>')
    parts += [_table(table.rows) for table in found]
    parts.append('</details>')
  return fixed('pod.html').format(
    title=html.escape(title),
    result=html.escape(tables.result(plans, chip)),
    command=html.escape(command),
    left=2,
    ceilings=html.escape(tables.ceilings(chip or plans[0].pod.chip)),
    body='\n'.join(parts),
  )


def _table(rows):
  head, *body = rows

  def line(cells, tag):
    texts = (html.escape(cell.strip('`')) for cell in cells)
    return f'<tr>{"".join(f"<{tag}>{x}</{tag}>" for x in texts)}</tr>'

  lines = [line(head, 'th'), *(line(cells, 'td') for cells in body)]
  return '\n'.join(['<div class="wide"><table>', *lines, '</table></div>'])


def _list(notes):
  items = ''.join(f'<li>{html.escape(x)}</li>' for x in notes)
  return f'<ul>{items}</ul>' if notes else ''


def _picture(png, name):
  data = base64.b64encode(png).decode()
  return f'<p><img alt="{name}" src="data:image/png;base64,{data}"></p>'
