"""Times linear attention and the Mix-FFN's gate, at the shapes of real models.

  sana-jax bench kernels
  sana-jax bench kernels --models sana_1600m_1024 --sizes 1024 --against torch
  sana-jax bench kernels --tune
  sana-jax bench kernels --compile-for v5p:2x2x1
  sana-jax bench kernels --render docs/bench

Every backend that runs here is compared with the float32 definition and then
timed, forward and in training (forward and backward), beside a large copy and a
large product on the same device. --against torch adds eager and compiled
PyTorch in the same run (needs pip install -e '.[parity]' -c constraints.txt).
--tune tries tile sizes and keeps the fastest in kernels/tuned/, by kind of
device, op, type and shape. --compile-for runs nothing: it compiles for
unattached chips and reports memory and memory traffic. --out writes a JSON file
and a page of all JSON files there. Ends with exit code 1 if a backend is wrong
or fails.
"""

import argparse
import contextlib
import functools
import json
import pathlib

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.launch import bench, output
from sana_jax.launch.flags import BATCH, flag, Invalid, PIXELS, whole

_MODELS = 'sana_600m_1024,sana_1600m_1024,dc_ae_f32c32_sana_1.1'
_PACKAGES = ('sana_jax', 'jax', 'torch')
_PASSES = ('forward', 'training')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  value = functools.partial(flag, parser)
  value('--models', 'A,B', 'of sana-jax zoo', default=_MODELS)
  usual = 'of square pictures (default: 512,1024,2048,4096; on a CPU 512,1024)'
  value('--sizes', 'PX,PX', usual)
  value(
    '--batch-size',
    'N',
    'pictures of a call (default: 16 of 1024 px or as many pixels, at most 16; '
    'on a CPU 1)',
    whole(1, BATCH),
  )
  bench.add_dtype(parser)
  value(
    '--ops',
    'A,B',
    'relu_linear_attention, glumb_conv, conv3x3_silu, conv3x3_norm '
    '(default: all)',
  )
  names = 'xla, xla_chunked, mosaic_gpu, mosaic_tpu (default: all that can run)'
  value('--backends', 'A,B', names)
  value('--passes', 'A,B', default=','.join(_PASSES))
  parser.add_argument(
    '--against', choices=['torch'], help='time it in the same run'
  )
  parser.add_argument(
    '--tune', action='store_true', help='try tile sizes, and store the fastest'
  )
  value('--tuned', 'DIR', 'where --tune writes (default: kernels/tuned)')
  bench.add_chips(parser)
  bench.add_ends(parser, 5, 'rounds in which all alternate', 'kernels.md')


def run(args: argparse.Namespace) -> int:
  """Measures, prints and writes; returns the exit code."""
  from sana_jax.tools.bench.ops import report

  if args.render:
    bench.write_pages(args.render, [report.MEASURED, report.COMPILED])
    return 0
  bench.check(args.out)
  bench.check(args.tuned, '--tuned')
  if args.compile_for:  # Before reading the models, which takes seconds.
    from sana_jax.analysis import topologies

    topologies.check(args.compile_for)
  plan = _plan(args)
  if args.tune:
    return tune(args, plan)
  if args.compile_for:
    kind, result = report.COMPILED, compile_all(args, plan)
    name = f'compiled-kernels-{args.compile_for}'
  else:
    kind, result = report.MEASURED, measure(args, plan)
    name = file_name(args, result)
  bench.publish(args, name, kind, result)
  return int(report.wrong(result))


def _plan(args):
  """(case, training, backends) of all requested measurements."""
  import jax

  from sana_jax.tools.bench.ops import cases
  from sana_jax.tools.bench.ops import measure as measures

  small = jax.default_backend() == 'cpu' and not args.compile_for
  ops = _among('--ops', args.ops, list(cases.OPS))
  passes = _among('--passes', args.passes, list(_PASSES))
  known = dict.fromkeys(
    b for op in cases.OPS for b in measures.implementations(op)
  )
  backends = _among('--backends', args.backends, list(known))
  found = cases.of_models(
    args.models.split(','),
    _sizes(args.sizes or ('512,1024' if small else '512,1024,2048,4096')),
    args.batch_size or (1 if small else None),
    args.dtype or ('float32' if small else 'bfloat16'),
  )
  return [
    (
      case,
      name == 'training',
      [b for b in measures.implementations(case.op) if b in backends],
    )
    for case in found
    if case.op in ops
    for name in passes
  ]


def _among(flag, given, allowed):
  chosen = given.split(',') if given else allowed
  if unknown := [x for x in chosen if x not in allowed]:
    raise UserError(
      f'{flag} has {unknown[0]!r}; allowed are {", ".join(allowed)}.',
      key=flag,
      value=unknown[0],
      allowed=allowed,
    )
  return chosen


def _sizes(given):
  try:
    found = [whole(32, PIXELS)(x) for x in given.split(',')]
  except Invalid as e:
    raise UserError(
      f'--sizes: {e}.', key='--sizes', value=e.value, allowed=e.allowed
    ) from None
  if odd := [x for x in found if x % 32]:
    raise UserError(
      f'--sizes has {odd[0]}; give multiples of 32, the '
      "autoencoder's compression.",
      key='--sizes',
      value=odd[0],
    )
  return found


def measure(args, plan):
  """Measured Run, with a progress bar."""
  from tqdm import tqdm

  from sana_jax.analysis import device
  from sana_jax.tools.bench import processes
  from sana_jax.tools.bench.ops import measure as measures

  records = []
  with contextlib.ExitStack() as stack:
    if args.against:
      torch = stack.enter_context(processes.start(_torch_side))
    for case, training, backends in tqdm(plan, desc='cases', disable=None):
      names = torch.call('begin', case, training) if args.against else []
      others = {x: functools.partial(torch.call, 'seconds', x) for x in names}
      records += measures.measure(
        case, training, backends, args.repeats, others
      )
      if args.against:
        torch.call('end')
  return bench.result(
    args,
    records,
    device.name(),
    _PACKAGES[: None if args.against else 2],
    copy_bytes=device.copy_rate(),
    matmul_flops=device.matmul_rate(plan[0][0].dtype),
  )


def _torch_side():
  from sana_jax.tools.bench.ops.torch_side import TorchSide

  return TorchSide()


def compile_all(args, plan):
  """Run of the compiled cases."""
  from tqdm import tqdm

  from sana_jax.analysis import topologies
  from sana_jax.tools.bench.ops import compiled

  mesh = topologies.mesh(args.compile_for, args.mesh)
  platform = topologies.platform(args.compile_for)
  records = [
    compiled.compile_case(case, training, backend, mesh, platform)
    for case, training, backends in tqdm(plan, desc='cases', disable=None)
    for backend in backends
  ]
  packages = ('sana_jax', 'jax', 'libtpu')
  return bench.result(
    args, records, args.compile_for, packages, devices=mesh.size
  )


def file_name(args, result) -> str:
  """JSON file name, one per kind of device, dtype and comparison."""
  from sana_jax.kernels import tuning

  device, dtype = tuning.file_name(result.device), result.records[0].dtype
  return '-'.join(filter(None, ['kernels', device, dtype, args.against]))


def measured(path) -> dict:
  """Stored table of a device; raises UserError if the file is invalid."""
  from sana_jax.kernels import tuning

  try:
    return dict(tuning.checked(files.read_json(path)))
  except FileNotFoundError:
    return {}
  except UserError:
    raise
  except ValueError as e:
    raise UserError(
      f'{path} cannot be added to ({e}); remove it, or give another --tuned.',
      key='--tuned',
      value=str(path),
    ) from e


def tune(args, plan) -> int:
  """Tunes; writes and prints the result of each case."""
  import jax

  from sana_jax.kernels import tuning
  from sana_jax.tools.bench.ops import tune as tuner

  kind = jax.devices()[0].device_kind
  name = f'{tuning.file_name(kind)}.json'
  with output.folder(args.tuned or str(tuning.FOLDER), '--tuned') as out:
    path = pathlib.Path(out, name)
    table = measured(path)
    for case, training, backends in plan:
      for backend in backends[1:]:
        found = tuner.tune(case, training, backend, args.repeats)
        if found is None:
          continue
        table = tuner.merged(table, case, training, backend, found)
        files.write_text(path, json.dumps(table, indent=1) + '\n')
        values = ' '.join(f'{k}={v}' for k, v in found.values.items())
        print(
          f'{backend} {case.op} {case.dtype} '
          f'{"x".join(map(str, case.shape))} {_PASSES[training]}: '
          f'{values or "its own choice"}, '
          f'{found.seconds / found.usual_seconds:.2f} of its time '
          f'({found.tried} tried)',
          flush=True,
        )
  return 0
