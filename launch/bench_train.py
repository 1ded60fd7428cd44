"""Times the train step on random data, or compiles it for other chips.

  sana-jax bench train --model sana_600m_512 --batch-size 32
  sana-jax bench train --batch-size 16 --against xla --out bench
  sana-jax bench train --batch-size 1024 --compile-for v5p:4x4x4 --mesh fsdp=64

The step is that of sana-jax train: flow matching on cached latents and text,
the optimizer, the average of the weights. --against xla times it without
kernels too, in turn from the same state, and prints the ratio; --kernels says
which. --compile-for runs nothing and says what memory a chip needs and which
kernels and collectives are called (needs pip install 'sana_jax[tpu]' or [gpu]).
--out writes a JSON file and a page of all that are there.
"""

import argparse
import datetime

from sana_jax.launch import bench, devices
from sana_jax.launch.flags import backends, BATCH, PIXELS, sizes, text, whole

FILES = 'training-*.json'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument('--model', default='sana_1600m_1024', metavar='NAME',
                      help='a size of sana_jax.config (default: %(default)s)')
  parser.add_argument('--size', type=whole(1, PIXELS), metavar='PX',
                      help="of square pictures (default: the model's own)")
  parser.add_argument('--batch-size', type=whole(1, BATCH), default=16,
                      metavar='N',
                      help='over all devices (default: %(default)s)')
  parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'],
                      default='bfloat16',
                      help='of the arithmetic (default: %(default)s)')
  parser.add_argument('--optimizer', default='came', metavar='NAME',
                      help='default: %(default)s')
  parser.add_argument('--remat', default='full', metavar='NAME',
                      help='what the backward pass computes again: full (the '
                      'default), dots, offload or none')
  parser.add_argument('--accumulate', type=whole(1, BATCH), default=1,
                      metavar='N',
                      help='parts that a batch is computed in, one after the '
                      'other (default: %(default)s)')
  parser.add_argument('--mesh', type=sizes, default={'fsdp': -1},
                      metavar='AXIS=N,...',
                      help='how devices share the work (default: fsdp=-1)')
  parser.add_argument('--kernels', type=backends, default={},
                      metavar='OP=NAME,...',
                      help='backends of operations (default: the fastest)')
  parser.add_argument('--against', choices=['xla'],
                      help='time it without kernels in the same run')
  parser.add_argument('--repeats', type=whole(), default=5, metavar='N',
                      help='rounds of three steps (default: %(default)s)')
  parser.add_argument('--compile-for', type=text, metavar='TOPOLOGY',
                      help='such as v5p:4x4x4, v6e:4x4 or h200:1x1x8')
  parser.add_argument('--out', type=text, metavar='DIR',
                      help='folder for the JSON file and training.md')
  parser.add_argument('--render', type=text, metavar='DIR',
                      help='writes the page of the JSON files of DIR again and '
                      'measures nothing')


def run(args: argparse.Namespace) -> int:
  """Measures, prints and writes; returns the exit code."""
  from sana_jax.tools.bench import training, training_report
  if args.render:
    bench.write_pages(args.render, {'training.md': (FILES, training_report)})
    return 0
  bench.check(args.out)
  asked = training.request(
    args.model, args.size, batch=args.batch_size, dtype=args.dtype,
    optimizer=args.optimizer, remat=args.remat, accumulate=args.accumulate)
  result = compile_step(args, asked) if args.compile_for else (
    measure(args, asked))
  print(training_report.table(result))
  bench.write(args.out, file_name(result), 'training.md', FILES,
              training_report, result)
  return 0


def measure(args, asked):
  """A Run of the report."""
  devices.configure(most=1 if set(args.mesh.values()) == {-1} else None)
  from sana_jax import kernels
  from sana_jax.analysis import device
  from sana_jax.sharding.mesh import make_mesh
  from sana_jax.tools.bench import training, training_report
  mesh = make_mesh(args.mesh)
  sides = {'sana_jax': args.kernels}
  if args.against:
    sides['xla'] = dict.fromkeys(kernels.OPS, 'xla')
  seconds = training.measure(asked, mesh, sides, args.repeats)
  return training_report.Run(
    asked, dict(mesh.shape),
    [training_report.Record(side, backends_of=sides[side], seconds=found)
     for side, found in seconds.items()],
    datetime.date.today().isoformat(), device.name(),
    bench.versions('sana_jax', 'jax'), bench.repeated_by(args),
    training.forward_flops(asked), device.matmul_rate(asked.dtype))


def compile_step(args, asked):
  """A Run of what the compiler says."""
  from sana_jax.analysis import topologies
  from sana_jax.tools.bench import compiled, training, training_report
  mesh = topologies.mesh(args.compile_for, args.mesh)
  program = training.compile_step(
    asked, mesh, topologies.platform(args.compile_for))
  memory, said = program.memory_analysis(), program.as_text()
  record = training_report.Record(
    'sana_jax', args.kernels, [], memory.argument_size_in_bytes,
    memory.temp_size_in_bytes, compiled.kernel_names(said),
    compiled.collectives(said))
  return training_report.Run(
    asked, dict(mesh.shape), [record], datetime.date.today().isoformat(),
    args.compile_for, bench.versions('sana_jax', 'jax', 'libtpu'),
    bench.repeated_by(args), training.forward_flops(asked))


def file_name(result) -> str:
  """Of the JSON file: one for each request, device and choice of kernels."""
  from sana_jax.kernels import tuning
  from sana_jax.tools.bench import training_report
  r = result.request
  chosen = [f'{op}-{name}' for op, name in sorted(
    result.records[0].backends_of.items())]
  return '-'.join([
    'training', r.model, f'{r.size}px', f'b{r.batch}', r.dtype, r.optimizer,
    *(x.replace(' ', '-') for x in training_report.how(r)),
    tuning.file_name(result.device), *chosen])
