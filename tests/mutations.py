"""Mutation check: faults of mutations.toml, each of which tests must catch.

  launch/mutations                     all faults, about ten minutes on 2 cores
  launch/mutations --area samplers     those of an area
  launch/mutations --only ema_decay    those of these ids

It copies the tree to a temporary folder, checks that the tests pass there,
applies one fault at a time to the copy, and runs the tests that the table names
for it. The exit code is 1 if more faults than the table allows are not caught,
or any of a selection. A run that times out, or that ends before the tests run,
does not count as caught.
"""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
TABLE = 'tests/mutations.toml'
NOT_COPIED = shutil.ignore_patterns(
  *('.*', '__pycache__', '*.egg-info', 'out', 'build', 'dist', 'work')
)
# The finder of an editable installation would import the original files.
SITE = """import sys
sys.meta_path[:] = [
  f for f in sys.meta_path
  if not getattr(f, '__module__', '').startswith('__editable__')
]
"""
CAUGHT, SURVIVED, HUNG, BROKEN = 'caught', 'survived', 'hung', 'broken'


@dataclasses.dataclass(frozen=True)
class Fault:
  """A row of the table; the tests must fail with `new` in place of `old`.

  `hangs` is true if a test that does not end counts as caught.
  """

  id: str
  area: str
  fault: str
  file: str
  old: str
  new: str
  tests: Sequence[str]
  hangs: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Result of a fault."""

  id: str
  area: str
  result: str
  seconds: float


def main(argv: Sequence[str] | None = None, root: pathlib.Path = ROOT) -> int:
  """Runs the check on the tree `root`; returns the exit code."""
  args = _parser().parse_args(argv)
  every, least = read(root)
  known = dict.fromkeys(x for f in every for x in (f.area, f.id))
  if unknown := [x for x in (*args.only, *args.area) if x not in known]:
    print(
      f'mutations: error: {unknown[0]!r} is no area or id; {TABLE} has '
      f'{", ".join(known)}.',
      file=sys.stderr,
    )
    return 2
  faults = chosen(every, args.only, args.area)
  tests = list(dict.fromkeys(t for f in faults for t in f.tests))
  with copied(root) as copy:
    print(f'Without a fault: {len(tests)} files or tests ...', flush=True)
    code, seconds, text = run(copy, tests, args.timeout * len(faults))
    if code:
      print(
        f'{text}\nmutations: error: tests fail without any fault (exit code '
        f'{code}); repair them first.',
        file=sys.stderr,
      )
      return 2
    print(f'They pass ({seconds:.0f} s).', flush=True)
    found = list(outcomes(copy, faults, args.timeout))
  print(table(found))
  if args.json:
    rows = [dataclasses.asdict(outcome) for outcome in found]
    pathlib.Path(args.json).write_text(json.dumps(rows, indent=1) + '\n')
  return int(missed(found) > allowed_misses(faults, every, least))


def _parser():
  parser = argparse.ArgumentParser(
    prog='launch/mutations',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--only', nargs='+', default=[], metavar='ID')
  parser.add_argument('--area', nargs='+', default=[])
  parser.add_argument('--json', metavar='FILE', help='write the results there')
  parser.add_argument(
    '--timeout',
    type=float,
    default=300,
    metavar='SECONDS',
    help='limit of the tests of one fault (default: %(default)s)',
  )
  return parser


def read(root: pathlib.Path) -> tuple[list[Fault], int]:
  """Faults of the table, and how many of them must be caught at least."""
  content = tomllib.loads((root / TABLE).read_text(encoding='utf-8'))
  return [Fault(**row) for row in content['faults']], content['least']


def chosen(
  faults: Sequence[Fault], ids: Sequence[str], areas: Sequence[str]
) -> list[Fault]:
  """Faults with one of these ids or areas; all if neither is given."""
  if not ids and not areas:
    return list(faults)
  return [f for f in faults if f.id in ids or f.area in areas]


def allowed_misses(
  faults: Sequence[Fault], every: Sequence[Fault], least: int
) -> int:
  """How many of these faults need not be caught; none of a selection."""
  return len(every) - least if list(faults) == list(every) else 0


@contextlib.contextmanager
def copied(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary copy of the tree."""
  with tempfile.TemporaryDirectory(prefix='mutations_') as folder:
    copy = pathlib.Path(folder) / 'tree'
    shutil.copytree(root, copy, ignore=NOT_COPIED, symlinks=True)
    (copy / 'sitecustomize.py').write_text(SITE)
    yield copy


def outcomes(
  copy: pathlib.Path, faults: Sequence[Fault], timeout: float
) -> Iterator[Outcome]:
  """Applies and reverts each fault in turn; prints the progress."""
  began = time.monotonic()
  for number, fault in enumerate(faults, 1):
    with applied(copy, fault):
      code, seconds, text = run(copy, fault.tests, timeout)
    outcome = Outcome(
      fault.id, fault.area, result(code, fault.hangs), round(seconds, 1)
    )
    left = (time.monotonic() - began) / number * (len(faults) - number)
    print(
      f'[{number}/{len(faults)}] {fault.id}: {outcome.result} '
      f'({seconds:.0f} s; about {left / 60:.0f} min left)',
      flush=True,
    )
    if outcome.result == BROKEN:
      print(text, flush=True)
    yield outcome


@contextlib.contextmanager
def applied(copy: pathlib.Path, fault: Fault) -> Iterator[None]:
  """Context in which the copy has the fault.

  Raises ValueError unless the fault's `old` occurs once.
  """
  path = copy / fault.file
  text, stat = path.read_text(encoding='utf-8'), path.stat()
  if text.count(fault.old) != 1:
    raise ValueError(f'{fault.id}: `old` must occur once in {fault.file}')
  try:
    path.write_text(text.replace(fault.old, fault.new), encoding='utf-8')
    # Python compares compiled files by size and second: both may be equal.
    os.utime(path, (stat.st_atime, stat.st_mtime + next(_SECONDS)))
    yield
  finally:
    path.write_text(text, encoding='utf-8')
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


_SECONDS = itertools.count(1)


def run(
  copy: pathlib.Path, tests: Sequence[str], timeout: float
) -> tuple[int | None, float, str]:
  """Exit code of pytest (None if it timed out), seconds, and its last lines."""
  began, text, code = time.monotonic(), '', None
  with subprocess.Popen(
    [sys.executable, '-m', 'pytest', '-qx', '--tb=short', *_OPTIONS, *tests],
    cwd=copy,
    env={**os.environ, 'PYTHONPATH': str(copy)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  ) as process:
    try:
      text, _ = process.communicate(timeout=timeout)
      code = process.returncode
    except subprocess.TimeoutExpired:
      pass
    finally:
      if process.poll() is None:  # Also after Ctrl-C; with its children.
        os.killpg(process.pid, signal.SIGKILL)
  last = '\n'.join(text.splitlines()[-40:])
  return code, time.monotonic() - began, last


# Those of launch/test; a file may have tests that it leaves out.
_OPTIONS = (
  '-p',
  'no:cacheprovider',
  '-m',
  'not (docs or long or slow or parity)',
)


def result(code: int | None, hangs: bool = False) -> str:
  """Result of a fault from the exit code of its tests."""
  if code is None:
    return CAUGHT if hangs else HUNG
  return {0: SURVIVED, 1: CAUGHT}.get(code, BROKEN)


def table(found: Sequence[Outcome]) -> str:
  """Table of all outcomes, and a line with the total."""
  width = max(len(outcome.id) for outcome in found)
  lines = [
    f'{o.id:<{width}}  {o.area:<11}  {o.result:<8}  {o.seconds:6.1f} s'
    for o in found
  ]
  caught = len(found) - missed(found)
  return '\n'.join([*lines, f'{caught} of {len(found)} faults are caught.'])


def missed(found: Sequence[Outcome]) -> int:
  """Number of faults that are not caught."""
  return sum(outcome.result != CAUGHT for outcome in found)


if __name__ == '__main__':
  # As Ctrl-C: the copy is deleted, and pytest with its processes killed.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  sys.exit(main())
