"""Times the train step with every remat policy, kernels off and on.

  sana-jax bench matrix --out docs/bench
  sana-jax bench matrix --models sana_600m_512:128 --remat none,full
  sana-jax bench matrix --models sana_600m_512:1 --size 32 --depth 1

The step is that of sana-jax bench train. Each variant has a process of its own:
one that does not fit is told and the next one runs. Prints images/s and MFU by
the published and by the measured peak of the device, and what the fastest one
loses most to, found in a profile. --out writes a JSON file, anew after each
variant, and a page of all that are there.
"""

import argparse
import datetime
import re
import sys

from sana_jax.errors import UserError
from sana_jax.launch import bench, devices
from sana_jax.launch.flags import PIXELS, sizes, text, whole

FILES = 'matrix-*.json'
_MODELS = 'sana_600m_512:128,sana_1600m_1024:32'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument('--models', type=text, default=_MODELS,
                      metavar='NAME:N,...',
                      help='sizes of sana_jax.config and images of a batch '
                      '(default: %(default)s)')
  parser.add_argument('--remat', default='none,dots,full', metavar='A,B',
                      help='default: %(default)s; also offload')
  parser.add_argument('--with-kernels', default='off,on', metavar='A,B',
                      help='default: %(default)s')
  parser.add_argument('--size', type=whole(1, PIXELS), metavar='PX',
                      help="of square pictures (default: the model's own)")
  parser.add_argument('--depth', type=whole(1, 1000), default=0, metavar='N',
                      help='blocks, to try it on a small machine (default: '
                      "the model's own)")
  parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'],
                      default='bfloat16',
                      help='of the arithmetic (default: %(default)s)')
  parser.add_argument('--optimizer', default='came', metavar='NAME',
                      help='default: %(default)s')
  parser.add_argument('--mesh', type=sizes, default={'fsdp': -1},
                      metavar='AXIS=N,...',
                      help='how devices share the work (default: fsdp=-1)')
  parser.add_argument('--repeats', type=whole(), default=3, metavar='N',
                      help='rounds of three steps (default: %(default)s)')
  parser.add_argument('--out', type=text, metavar='DIR',
                      help='folder for the JSON file and matrix.md')
  parser.add_argument('--render', type=text, metavar='DIR',
                      help='writes the page of the JSON files of DIR again and '
                      'measures nothing')


def run(args: argparse.Namespace) -> int:
  """Measures, prints and writes; returns the exit code."""
  from sana_jax.tools.bench import matrix_report
  if args.render:
    bench.write_pages(args.render, {'matrix.md': (FILES, matrix_report)})
    return 0
  bench.check(args.out)
  for result in measure(args):
    bench.write(args.out, file_name(result), 'matrix.md', FILES, matrix_report,
                result)
  print(matrix_report.table(result))
  if not any(r.seconds for r in result.records):
    raise UserError('No variant ran: ' + result.records[0].failed)
  return 0


def measure(args):
  """Runs of the report, each with one more variant."""
  import jax
  # This process only asks: it must not take the accelerator's memory.
  jax.config.update('jax_platforms', 'cpu')
  devices.configure()
  from sana_jax.tools.bench import matrix, matrix_report
  asked = matrix.variants(
    models(args.models), args.remat.split(','), args.with_kernels.split(','),
    size=args.size, depth=args.depth, dtype=args.dtype,
    optimizer=args.optimizer)
  facts = matrix.facts(args.mesh, args.dtype)
  records = []
  for record in matrix.records(
      asked, args.mesh, args.repeats, facts.published or facts.measured):
    records.append(record)
    print(progress(record, len(records), len(asked)), file=sys.stderr)
    yield matrix_report.Run(
      list(records), facts, datetime.date.today().isoformat(),
      bench.versions('sana_jax', 'jax', 'jaxlib'), bench.repeated_by(args))


def models(text: str) -> list[tuple[str, int]]:
  """(name, images) of a flag like sana_600m_512:128,sana_1600m_1024:32."""
  pairs = [re.fullmatch(r'(\w+):([1-9]\d{0,6})', part)
           for part in text.split(',')]
  if not all(pairs):
    raise UserError(f'--models={text} is not allowed; give NAME:IMAGES,'
                    'NAME:IMAGES.')
  return [(p[1], int(p[2])) for p in pairs]


def progress(record, number, of) -> str:
  """A line for who waits."""
  v = record.variant
  said = record.failed or (
    f'{record.best:.3g} s, compiled in {record.compile_seconds:.0f} s')
  return (f'{number}/{of} {v.request.model}, remat {v.request.remat}, kernels '
          f'{v.kernels}: {said}')


def file_name(result) -> str:
  """Of the JSON file: one for each device and set of models."""
  from sana_jax.kernels import tuning
  asked = [r.variant.request for r in result.records]
  names = dict.fromkeys(f'{r.model}-{r.size}px-b{r.batch}' for r in asked)
  return '-'.join(['matrix', tuning.file_name(result.facts.name), *names])
