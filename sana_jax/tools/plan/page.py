"""The whole report in one HTML file, pictures included."""

import base64
from collections.abc import Sequence
import html

from sana_jax.analysis.chips import Chip
from sana_jax.tools.plan import pictures, tables
from sana_jax.tools.plan.report import Plan, ranked

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75rem;
       margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-size: 13px; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #ddd;
         text-align: right; white-space: nowrap; }}
th:nth-child(-n+{left}), td:nth-child(-n+{left}) {{ text-align: left; }}
.wide {{ overflow-x: auto; }} img {{ max-width: 100%; }}
code {{ background: #f3f3f3; padding: .1rem .3rem; }}
</style></head><body>
<h1>{title}</h1>
<p><code>{command}</code></p>
<p><em>Compiled</em>, not run; times are <em>predicted</em> by {ceilings}.</p>
{body}
</body></html>
"""


def page(
  title: str,
  plans: Sequence[Plan],
  said: Sequence[str],
  command: str,
  chip: Chip | None = None,
) -> str:
  """HTML that needs no other file."""
  plans = ranked(plans, chip)
  parts = [_table(tables.rows(plans, chip)), _list(said)]
  if any(p.memory for p in plans):
    parts += [_picture(pictures.memory_bars(plans), 'Memory by layout')]
  if any(p.fits for p in plans):
    parts += [_picture(pictures.scaling_curve(plans, chip), 'Scaling')]
  memory, seconds, *each = tables.sections(plans, chip)
  for heading, found in (memory, seconds):
    parts.append(f'<h2>{html.escape(heading)}</h2>')
    parts += [_table(table.rows) for table in found]
  for heading, found in each:
    parts.append(f'<details><summary>{html.escape(heading)}</summary>')
    parts += [_table(table.rows) for table in found]
    parts.append('</details>')
  return _PAGE.format(
    title=html.escape(title),
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


def _list(said):
  items = ''.join(f'<li>{html.escape(x)}</li>' for x in said)
  return f'<ul>{items}</ul>' if said else ''


def _picture(png, name):
  data = base64.b64encode(png).decode()
  return f'<p><img alt="{name}" src="data:image/png;base64,{data}"></p>'
