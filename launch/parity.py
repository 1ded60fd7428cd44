"""Run the comparisons with the PyTorch references; print a table of results.

  sana-jax parity --quick
  sana-jax parity --only "dc_ae: decode" --seed 7
  sana-jax parity --out docs
  sana-jax parity --from-json docs/parity.json --out docs

Weights and inputs are random, with a new seed in every run. --out writes
parity.json and the page parity.md; --from-json rewrites the page without
measuring. Ends with exit code 1 if a row fails.
Needs pip install -e '.[parity]' -c constraints.txt.
"""

import argparse
from collections.abc import Sequence
import datetime
import importlib
import importlib.metadata
import platform
import secrets
import warnings

from tqdm import tqdm

from sana_jax import extras, files
from sana_jax.errors import UserError
from sana_jax.launch import devices, output
from sana_jax.launch.flags import prompt, text, whole
from sana_jax.printable import counted
from sana_jax.tools.parity import ledger, pages

# From small to large: the first failure is closest to its cause.
AREAS = (
  'gemma2',
  'nvila',
  'dc_ae',
  'sana',
  'controlnet',
  'lora',
  'text',
  'samplers',
  'optim',
  'pipeline',
  'controlnet_pipeline',
  'sprint',
  'ladd',
  'distillation',
  'clip',
)
_PACKAGES = (
  'sana_jax',
  'jax',
  'flax',
  'torch',
  'diffusers',
  'peft',
  'transformers',
  'came-pytorch',
)
_FULL_SIZE = 40  # Approximate cost relative to a tiny case.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument(
    '--quick', action='store_true', help='tiny sizes only: minutes on two cores'
  )
  parser.add_argument(
    '--only',
    type=prompt,
    default='',
    metavar='TEXT',
    help='rows whose name contains this; see --list',
  )
  parser.add_argument(
    '--seed', type=whole(0), help='repeats a run; printed at its beginning'
  )
  parser.add_argument(
    '--list', action='store_true', help='list the rows without measuring'
  )
  parser.add_argument(
    '--out',
    type=text,
    metavar='DIR',
    help='folder for parity.json and parity.md',
  )
  parser.add_argument(
    '--from-json',
    type=text,
    metavar='FILE',
    help='write the page of this ledger to --out',
  )


def run(args: argparse.Namespace) -> int:
  """Measures, prints and writes; returns 1 if a row fails."""
  if args.out:
    output.check(args.out)
  if args.from_json:
    return render(args.from_json, args.out)
  cases = chosen(all_cases(), args.quick, args.only)
  if args.list:
    print('\n'.join(case.name for case in cases))
    return 0
  devices.configure(cpu_devices=1)
  keep_small_programs()
  seed = secrets.randbits(31) if args.seed is None else args.seed
  print(f'Comparing {counted(len(cases), "row")}; repeat with --seed={seed}.')
  result = pages.Ledger(
    measure(cases, seed),
    seed,
    datetime.date.today().isoformat(),
    device(),
    versions(),
  )
  print(pages.table(result.records))
  if args.out:
    write(result, args.out)
  return 0 if all(record.passed for record in result.records) else 1


def all_cases() -> list[ledger.Case]:
  """Cases of all areas; raises UserError without the references."""
  out = []
  for area in AREAS:
    try:
      module = importlib.import_module(f'sana_jax.tools.parity.{area}')
    except ModuleNotFoundError as e:
      if (e.name or 'sana_jax').startswith('sana_jax'):
        raise
      raise extras.missing(e.name, extra='parity') from e
    out += module.cases()
  return out


def chosen(
  cases: Sequence[ledger.Case], quick: bool, only: str
) -> list[ledger.Case]:
  """Returns the requested cases; raises UserError if there are none."""
  out = [
    case for case in cases if only in case.name and (case.quick or not quick)
  ]
  if not out:
    raise UserError(
      f'No row has --only={only!r} in its name; see --list.',
      key='--only',
      value=only,
    )
  return out


def measure(cases: Sequence[ledger.Case], seed: int) -> list[ledger.Record]:
  """Runs the cases under a progress bar, hidden without a terminal."""
  cost = lambda quick: 1 if quick else _FULL_SIZE
  names = iter([case.name for case in cases] + [''])
  with (
    warnings.catch_warnings(),
    tqdm(
      total=sum(cost(case.quick) for case in cases),
      desc=next(names),
      bar_format='{percentage:3.0f}% |{bar:20}| {elapsed} of about '
      '{elapsed}+{remaining} {desc}',
      disable=None,
    ) as bar,
  ):
    warnings.simplefilter('ignore')  # From the references.

    def on_record(record):
      bar.set_description_str(next(names), refresh=False)
      bar.update(cost(record.quick))
      if not record.passed:
        bar.write(
          f'{record.verdict}: {record.area}: {record.what} '
          f'{record.error:.1e} > {record.bound:.1e} {record.problem}'
        )

    return ledger.run(cases, seed, on_record)


def keep_small_programs() -> None:
  """Makes JAX's cache keep programs that compile in tenths of a second."""
  import jax

  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def device() -> str:
  """Device of our side."""
  import jax

  kind = jax.devices()[0].device_kind
  return kind if kind != 'cpu' else f'CPU ({platform.machine()})'


def versions() -> dict[str, str]:
  """Versions of the compared packages that are installed."""
  out = {}
  for name in _PACKAGES:
    try:
      out[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return out


def render(path: str, out: str | None) -> int:
  """Writes or prints the page of an existing ledger."""
  result = pages.from_json(output.read(path, '--from-json'))
  if out:
    write(result, out)
  else:
    print(pages.table(result.records))
  return 0 if all(record.passed for record in result.records) else 1


def write(result: pages.Ledger, out: str) -> None:
  """Writes parity.json, its page and its plot."""
  from sana_jax.tools import plots

  text = pages.to_json(result)
  rounded = pages.from_json(text)
  rows = [
    (pages.NAMES.get(r.area, r.area), r.error, r.bound) for r in rounded.records
  ]
  with output.folder(out) as folder:
    files.write_text(folder / 'parity.json', text)
    files.write_bytes(folder / 'parity.png', plots.errors(rows))
    files.write_text(
      folder / 'parity.md', pages.markdown(rounded, 'parity.png')
    )
