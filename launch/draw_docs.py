"""Draw the pictures of the docs, and render the pages that are made from JSON.

  python -m sana_jax.launch.draw_docs --out docs [--reconstruct] [--sprint]
    [--edits] [--run DIR]

Reads the committed results in DIR and DIR/bench, and golden plans. It does not
draw demo.png (a screenshot), or pictures.png and strip.png (of `evaluate` and
`sample`).
"""

import argparse
from collections.abc import Sequence
import pathlib
import re
import sys

from PIL import Image

from sana_jax import files
from sana_jax.launch import (
  bench,
  diagrams,
  draw_edits,
  draw_sprint,
  parity,
  plan_matrix,
)
from sana_jax.tools import plots
from sana_jax.tools.bench import loop_report, sample_report, step_report
from sana_jax.tools.bench.ops import report as ops_report
from sana_jax.tools.plan import golden, winners
from sana_jax.tools.report import Bars

REPORTS = (
  sample_report.SAMPLING,
  ops_report.MEASURED,
  ops_report.COMPILED,
  loop_report.LOOP,
  step_report.COMPILED,
  step_report.PLANNED,
)
_STATES = 'optimizers-cpu-x86-64-2-cores-sana_1600m_1024.json'


def main(argv: Sequence[str] | None = None) -> int:
  """Draws all of them; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m sana_jax.launch.draw_docs',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument(
    '--reconstruct',
    action='store_true',
    help='also reconstructions.png, by the shipped autoencoder',
  )
  parser.add_argument(
    '--sprint', action='store_true', help='also sprint.png, by both models'
  )
  parser.add_argument(
    '--edits', action='store_true', help='also edits.png, by both models'
  )
  parser.add_argument(
    '--run',
    metavar='DIR',
    help='also training.png and loss.png, of this run of configs/shapes.py',
  )
  parser.add_argument(
    '--golden',
    default='tests/golden/plans',
    metavar='DIR',
    help='golden plans (default: %(default)s)',
  )
  args = parser.parse_args(argv)
  out = pathlib.Path(args.out)
  bench.write_pages(str(out / 'bench'), REPORTS)
  facts = files.parse_json((out / 'bench/winners.json').read_bytes())
  plan_matrix.write_page(out / 'bench', facts)
  states = files.parse_json((out / 'bench' / _STATES).read_bytes())
  files.write_bytes(
    out / 'bench/optimizers.png', plots.bars(optimizers(states))
  )
  parity.render(str(out / 'parity.json'), str(out))
  plans = sorted(pathlib.Path(args.golden).glob('*.txt'))
  files.write_bytes(out / 'golden.png', plots.bars(memory(plans)))
  for name, png in drawings(facts).items():
    files.write_bytes(out / name, png)
  if args.run:
    run = pathlib.Path(args.run)
    files.write_bytes(out / 'training.png', progress(run))
    files.write_bytes(out / 'loss.png', (run / 'loss.png').read_bytes())
  if args.sprint:
    files.write_bytes(out / 'sprint.png', draw_sprint.few_steps())
  if args.edits:
    files.write_bytes(out / 'edits.png', draw_edits.edits())
  if args.reconstruct:
    files.write_bytes(out / 'reconstructions.png', reconstructions())
  return 0


def optimizers(facts: dict) -> Bars:
  """Bytes of state per parameter by optimizer, of the 1.6B."""
  groups = {
    row['optimizer']: {'state': row['bytes'] / row['parameters']}
    for row in facts['states']
    if row['model'] == 'sana_1600m_1024'
  }
  axis = 'bytes of optimizer state per parameter'
  return Bars('The 1.6B, counted from shapes', axis, groups, form='.2f')


def memory(plans: Sequence[pathlib.Path]) -> Bars:
  """GiB of a GPU by recipe, of the golden plans of 8 and of 256 H200."""
  pods, groups = {'h200:1x1x8': '8 H200', 'h200:1x32x8': '256 H200'}, {}
  for plan in map(golden.read, plans):
    found = re.search(r'; ([\d,.]+) of ([\d,.]+)', plan.compiled)
    if found and plan.topology in pods:
      size, usable = (float(x.replace(',', '')) / 1024 for x in found.groups())
      groups.setdefault(plan.config, {})[pods[plan.topology]] = size
  title = "Fully sharded, at the config's batch: compiled, not run"
  axis = f'GiB of a GPU, of {usable:.1f}'
  return Bars(title, axis, groups, form='.1f')


def drawings(facts: dict) -> dict[str, bytes]:
  """PNGs of the diagrams by file name."""
  row = next(
    row
    for row in winners.rows(facts)
    if (row['config'], row['pod']) == ('sana_1600m_1024', 'h200:1x4x8')
  )
  return {
    'mesh.png': diagrams.mesh_axes(),
    'mesh_h200.png': diagrams.hosts(row),
    'data_path.png': diagrams.data_path(),
    'resuming.png': diagrams.resuming(),
  }


def progress(
  run: pathlib.Path,
  steps: Sequence[int] = (500, 1000, 2000, 4000, 8000, 13_000),
  cells: Sequence[int] = (10, 16, 18),
) -> bytes:
  """PNG of some pictures of a run's sample grids, a column for each step."""
  drawn = plots.figure(9.0, 1.6 * len(cells))
  for column, step in enumerate(steps):
    with Image.open(run / 'pictures' / f'step_{step:06}.png') as grid:
      tiles = cut(grid)
    for row, cell in enumerate(cells):
      place = row * len(steps) + column + 1
      axes = drawn.add_subplot(len(cells), len(steps), place)
      axes.imshow(tiles[cell])
      axes.set_axis_off()
      if not row:
        axes.set_title(f'step {step:,}', fontsize=9)
  return plots.png(drawn)


def cut(
  grid: Image.Image, columns: int = 6, rows: int = 4, size: int = 128
) -> list[Image.Image]:
  """Pictures of a grid as `contact_sheet` makes them, without their labels."""
  width, height = grid.width // columns, grid.height // rows
  margin = (width - size) // 2
  corners = [
    (x * width + margin, y * height + margin)
    for y in range(rows)
    for x in range(columns)
  ]
  return [grid.crop((x, y, x + size, y + size)) for x, y in corners]


def reconstructions(count: int = 8, size: int = 128) -> bytes:
  """PNG of held-out pictures, and below them the shipped autoencoder's."""
  import jax
  import numpy as np

  from sana_jax.data.shapes import render, scene
  from sana_jax.weights import folder, hub

  found = folder.load(hub.ASSETS / 'shapes', 'vae')
  images = np.stack(
    [render(scene(0, 'heldout', i), size) for i in range(count)]
  )
  rebuild = jax.jit(found.module.apply)
  rebuilt = np.asarray(rebuild(found.variables, images / 127.5 - 1.0))
  rebuilt = np.clip((rebuilt + 1) * 127.5, 0, 255).round().astype(np.uint8)
  error = np.square(np.subtract(images, rebuilt, dtype=np.float32)).mean()
  title = (
    f'{count} held-out pictures of `shapes`; below, rebuilt from latents of '
    f'{size // 32} x {size // 32} by the shipped DC-AE '
    f'({10 * np.log10(255**2 / error):.1f} dB)'
  )
  drawn = plots.figure(9.0, 2.7)
  axes = drawn.add_subplot()
  rows = [np.concatenate(x, axis=1) for x in (images, rebuilt)]
  axes.imshow(np.concatenate(rows))
  axes.set_axis_off()
  axes.set_title(title, fontsize=9)
  return plots.png(drawn)


if __name__ == '__main__':
  sys.exit(main())
