"""Times the stages of a call of the pipeline: text, denoise, decode.

  sana-jax bench sample --model sana_600m_1024 --steps 2
  sana-jax bench sample --model sana_600m_512 --against diffusers --out bench
  sana-jax bench sample --model sana_1600m_4k_bf16 --dtype bfloat16 \\
    --compile-for v5p:2x2x1 --mesh sequence=4
  sana-jax bench sample --model shapes-sprint --steps 1 --against teacher
  sana-jax bench sample --render bench

The model is one of sana-jax zoo, or a shipped one, with random weights.
--against runs the same stage of diffusers on the same weights in turn, and
prints the ratio (needs pip install -e '.[parity]' -c constraints.txt).
--compile-for runs nothing: it compiles the stages for unattached chips and
reports their memory (needs pip install -e '.[tpu]' -c constraints.txt, or
[gpu]). --out writes a JSON file and a page of all JSON files there.
"""

import argparse
import dataclasses
import functools
import re

from sana_jax.errors import UserError
from sana_jax.launch import bench
from sana_jax.launch.flags import (
  backends,
  BATCH,
  flag,
  not_negative,
  PIXELS,
  whole,
)

SIDES = ('diffusers', 'diffusers-compile', 'plain', 'xla', 'teacher')
_PACKAGES = ('sana_jax', 'jax', 'torch', 'diffusers')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  value = functools.partial(flag, parser)
  value('--model', 'NAME', 'zoo or shipped', default='sana_600m_1024')
  own = "of square pictures (default: the model's own)"
  value('--size', 'PX', own, whole(1, PIXELS))
  few = 'default: 20, of a SANA-Sprint 2'
  value('--steps', 'N', few, whole(1, 1000))
  value('--batch-size', 'N', 'pictures of a call', whole(1, BATCH), 1)
  value('--guidance-scale', 'S', type=not_negative, default=4.5)
  bench.add_dtype(parser)
  value('--stages', 'A,B', default='text,denoise,decode')
  parser.add_argument(
    '--against',
    choices=SIDES,
    help='measure it in the same run; plain is sana_jax without caches, xla '
    'without kernels, teacher 20 guided steps of a flow model of the same size',
  )
  bench.add_chips(parser)
  value(
    '--kernels',
    'OP=NAME,...',
    'backends of operations, such as glumb_conv=mosaic_gpu (default: the '
    'fastest)',
    backends,
    {},
  )
  parser.add_argument(
    '--decode',
    choices=['whole', 'strips'],
    default='whole',
    help='of --compile-for (default: %(default)s)',
  )
  bench.add_ends(parser, 3, 'calls of each side, in turn', 'sampling.md')


def run(args: argparse.Namespace) -> int:
  """Measures, prints and writes; returns the exit code."""
  from sana_jax.tools.bench.sample_report import SAMPLING

  if args.render:
    bench.write_pages(args.render, [SAMPLING])
    return 0
  bench.check(args.out)
  from sana_jax.tools.bench.request import request, STAGES

  stages = args.stages.split(',')
  if unknown := [s for s in stages if s not in STAGES]:
    raise UserError(
      f'--stages has {unknown[0]!r}; allowed are {", ".join(STAGES)}.',
      key='--stages',
      value=unknown[0],
      allowed=STAGES,
    )
  query = request(
    args.model,
    args.size,
    args.steps,
    batch=args.batch_size,
    guidance_scale=args.guidance_scale,
    dtype=args.dtype or usual_dtype(),
    kernels=args.kernels,
  )
  check_side(args.against, query)
  if args.compile_for:
    return compile_stages(args, query, stages)
  result = measure(args, query, stages)
  bench.publish(args, file_name(query, result), SAMPLING, result)
  return 0


def check_side(side: str | None, query) -> None:
  """Raises UserError for a side that does not run the model."""
  sprint = query.config('transformer').get('guidance_embeds', False)
  allowed = (
    ('xla', 'teacher') if sprint else tuple(x for x in SIDES if x != 'teacher')
  )
  if side and side not in allowed:
    raise UserError(
      f'--against={side} does not run {query.model}; allowed are '
      f'{", ".join(allowed)}.',
      key='--against',
      value=side,
      allowed=allowed,
    )


def measure(args, query, stages):
  """Measured Run, with a progress bar over the stages."""
  from tqdm import tqdm

  from sana_jax.tools.bench import sample_report, workers

  sides = [workers.OURS, *([args.against] if args.against else [])]
  records, ours = [], {}
  for stage in tqdm(stages, desc='stages', disable=None):
    found = workers.measure(stage, query, sides, args.repeats)
    records += sample_report.records_of(stage, found)
    ours = found[workers.OURS]
  torch = 'diffusers' in (args.against or '')
  return bench.result(
    args,
    records,
    ours['device'],
    _PACKAGES[: None if torch else 2],
    request=dataclasses.asdict(query),
    matmul_flops=ours['matmul_flops'],
  )


def compile_stages(args, query, stages) -> int:
  """Compiles each stage and prints a line of its figures."""
  from sana_jax.analysis import topologies
  from sana_jax.inference.strip_decoding import Strips
  from sana_jax.tools.bench import compiled, sample_report

  mesh = topologies.mesh(args.compile_for, args.mesh)
  strips = Strips() if args.decode == 'strips' else None
  print(f'{sample_report.title(query)}, on {args.compile_for}, GiB of a chip:')
  for stage in stages:
    found = compiled.compile_stage(
      stage, query, mesh, topologies.platform(args.compile_for), strips
    )
    gib = [
      f'{name} {getattr(found, name) / 2**30:.2f}'
      for name in ('weights', 'temporaries', 'outputs')
    ]
    called = sum(found.kernel_names.values())
    moved = ', '.join(f'{n} {kind}' for kind, n in found.collectives.items())
    print(
      f'{stage}: {", ".join(gib)}; {moved or "no collectives"}; '
      f'{called} kernels; compiled in {found.seconds:.0f} s',
      flush=True,
    )
  return 0


def file_name(r, run) -> str:
  """JSON file name, one per request, stages and kind of device."""
  kind = re.sub(r'\W+', '-', run.device.lower()).strip('-')
  stages = '-'.join(dict.fromkeys(x.stage for x in run.records))
  return (
    f'sampling-{r.model}-{r.height}px-{r.steps}steps-b{r.batch}-'
    f'{r.dtype}-{stages}-{kind}'
  )


def usual_dtype() -> str:
  """Default dtype of sana-jax sample."""
  import jax

  return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
