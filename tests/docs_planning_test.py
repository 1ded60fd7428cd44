"""docs/planning.md has the results of the benchmark and the search.

docs_shell_test.py runs its commands.
"""

import json
import pathlib
import re
import shlex

import pages

from sana_jax.launch import cli
from sana_jax.tools.bench.step_report import PLANNED

DOCS = pathlib.Path(__file__).parents[1] / 'docs'
PAGE = (DOCS / 'planning.md').read_text()
COMMANDS = pages.commands(PAGE)
PLANS = [c for c in COMMANDS if c.startswith('sana-jax plan')]


def test_the_flags_of_the_page_are_those_of_the_command():
  parser, _ = cli.build_parsers('plan')
  known = set(
    re.findall(
      r'--[a-z-]+',
      parser._subparsers._group_actions[0].choices['plan'].format_usage(),
    )
  )
  shown = {flag for line in PLANS for flag in re.findall(r'--[a-z-]+', line)}
  assert shown <= known and len(shown) > 6


def test_the_measured_table_matches_the_benchmark():
  runs = [
    PLANNED.from_json(path.read_text())
    for path in sorted((DOCS / 'bench').glob(PLANNED.files))
  ]
  page = PLANNED.markdown(runs, PLANNED.picture)
  assert (DOCS / 'bench/plan.md').read_text() == page
  cpu = next(r for r in runs if r.device.startswith('CPU'))
  _, *rows = PLANNED.rows(cpu)
  assert len(rows) == 4
  for row in rows:
    shown = [row[i] for i in (0, 3, 6, 8, 9, 10, 11)]
    assert f'| {" | ".join(shown)} |' in PAGE


def test_the_layouts_of_32_h200_are_the_fastest_ones_found(capsys):
  facts = json.loads((DOCS / 'bench/winners.json').read_text())
  head, *rows = facts['rows']
  found = [row for row in (dict(zip(head, x)) for x in rows)]
  found = [row for row in found if row['pod'] == 'h200:1x4x8']
  assert len(found) == 4
  for row in found:
    _, remat, *more = row['layout'].removesuffix('_kernels').split('_')
    assert row['layout'].endswith('_kernels') and row['of'] == '120.81'
    parts = more[0].removeprefix('in') if more else '1'
    columns = 'images/chip', 'GiB', 'img/s', 'MFU', 'bound by'
    cells = [row[x] for x in ('config', 'mesh')] + [remat, parts]
    cells += [row[x] for x in columns]
    assert f'| {" | ".join(cells)} |' in PAGE
  (line,) = [c for c in COMMANDS if c.startswith('sana-jax launch')]
  assert cli.main([*shlex.split(line)[1:], '--dry-run', '--no-plan']) == 0
  assert '--config.mesh.fsdp=8' in capsys.readouterr().out


CONFIGS = (
  'sana_600m_1024',
  'sana_1600m_1024',
  'sana15_4800m_1024',
  'sana_1600m_4k',
)
PODS = ('v5e:16x16', 'v5p:4x4x8', 'v6e:16x16', 'tpu7x:4x4x8', 'h200:1x4x8')


def test_every_size_has_a_layout_that_fits_every_pod():
  bench = DOCS / 'bench'
  facts = json.loads((bench / 'winners.json').read_text())
  head, *rows = facts['rows']
  found = {
    (row['config'], row['pod']): row
    for row in (dict(zip(head, cells)) for cells in rows)
  }
  assert set(found) == {(c, pod) for c in CONFIGS for pod in PODS}
  page = (bench / 'winners.md').read_text()
  for cells in facts['rows']:
    assert f'| {" | ".join(cells)} |' in page
  assert facts['command'] in page
  for row in found.values():
    assert float(row['GiB']) <= float(row['of']) and row['MFU'].endswith('%')
