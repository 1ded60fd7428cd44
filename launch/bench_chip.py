"""Measures a new accelerator in minutes, stage by stage.

  sana-jax bench chip --out out/chip
  sana-jax bench chip --out out/chip --minutes 4
  sana-jax bench chip --render out/chip

In order of value: rates of a copy and of bf16, int8 and fp8 products; linear
attention and the Mix-FFN's gate by XLA and by kernel; the kernels' tiles; a
train step of the 0.6B at 512 px and of the 1.6B at 1024 px, kernels off and on;
a request to the 1.6B from prompt to pixels, beside diffusers with torch.compile
where that is installed. Each stage has a process and a budget of its own.
--minutes ends it all; stages that did not run are listed, and the same command
resumes with them. It needs no network and no model files, and names missing
packages. On a CPU the sizes are tiny, to try it. Writes chip.json after each
figure, the page chip.md, and what the stages print to chip.log.
"""

import argparse
import datetime
import pathlib
import platform

from sana_jax import files
from sana_jax.launch import bench, output
from sana_jax.launch.flags import positive, text

_PACKAGES = ('sana_jax', 'jax', 'jaxlib', 'flax', 'torch', 'diffusers')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument(
    '--minutes',
    type=positive,
    default=9.0,
    metavar='N',
    help='limit of the total (default: %(default)g)',
  )
  parser.add_argument(
    '--out',
    type=text,
    default='out/chip',
    metavar='DIR',
    help='folder for chip.json and chip.md (default: %(default)s)',
  )
  parser.add_argument(
    '--render',
    type=text,
    metavar='DIR',
    help='writes the page of chip.json in DIR again and measures nothing',
  )


def run(args: argparse.Namespace) -> int:
  """Measures, prints and writes; returns the exit code."""
  from sana_jax.tools.bench.chip import runner
  from sana_jax.tools.bench.chip.report import CHIP
  from sana_jax.tools.report import Run

  if args.render:
    bench.write_pages(args.render, [CHIP])
    return 0
  bench.check(args.out)
  versions = {'python': platform.python_version(), **bench.versions(*_PACKAGES)}
  with output.folder(args.out) as out:
    path = pathlib.Path(out, CHIP.files)
    found = Run(
      [],
      '',
      datetime.date.today().isoformat(),
      versions,
      bench.repeated_by(args),
    )
    if path.exists():
      found = runner.resumed(
        CHIP.from_json(output.read(path, '--out')), versions
      )
    found = runner.run(path, found, 60 * args.minutes)
    print(CHIP.table(found))
    picture = bench.draw(out, CHIP, [found])
    files.write_text(out / CHIP.page, CHIP.markdown([found], picture))
  return 0
