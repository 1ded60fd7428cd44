"""Write the exact control image of a held-out scene of `shapes`.

  python -m sana_jax.launch.control_image --index 3 --out out/mask.png

Prints the scene's caption.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

from sana_jax.data.shapes import controls, scene
from sana_jax.launch.flags import whole


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the image; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m sana_jax.launch.control_image',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--out', required=True, metavar='FILE')
  parser.add_argument('--index', type=whole(0), default=0, metavar='N')
  parser.add_argument('--size', type=whole(8, 4096), default=128, metavar='PX')
  parser.add_argument(
    '--kind', choices=['masks', 'edges'], default='masks', help='%(default)s'
  )
  args = parser.parse_args(argv)
  from sana_jax.inference.images import write_png

  drawn = scene(0, 'heldout', args.index, layout='free')
  out = pathlib.Path(args.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  write_png(out, getattr(controls, args.kind)(drawn, args.size))
  print(drawn.caption)
  return 0


if __name__ == '__main__':
  sys.exit(main())
