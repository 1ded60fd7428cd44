"""sana-jax: train, sample, evaluate and prepare data, by one command.

Bad input ends with one sentence and exit code 2; nothing is half-written.
"""

import argparse
from collections.abc import Sequence
import errno
import importlib
import sys

from sana_jax.errors import UserError
from sana_jax.version import __version__

COMMANDS = {
  'train': 'train a model that a config describes',
  'sample': 'make pictures of prompts',
  'evaluate': 'score how well a model follows prompts',
  'data': 'prepare data sets',
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command; returns the exit code."""
  argv = sys.argv[1:] if argv is None else list(argv)
  name = argv[0] if argv and argv[0] in COMMANDS else None
  parser = build_parser(name)
  args, rest = parser.parse_known_args(argv)
  if rest and not getattr(args, 'overrides', False):
    parser.error(f'unrecognized arguments: {" ".join(rest)}')
  if name is None:
    parser.print_help()
    return 2
  try:
    return args.run(args, rest) if args.overrides else args.run(args)
  except UserError as e:
    return fail(str(e))
  except OSError as e:
    if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      return fail(f'No space is left to write {e.filename or "a file"} '
                  f'({e.strerror}); free some, or choose another folder.')
    if e.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
      return fail(f'{e.filename} cannot be written ({e.strerror}); choose '
                  'another folder.')
    raise
  except KeyboardInterrupt:
    print('sana-jax: interrupted', file=sys.stderr)
    return 130


def build_parser(name: str | None) -> argparse.ArgumentParser:
  """The parser; only the command that is asked for is imported."""
  parser = argparse.ArgumentParser(
    prog='sana-jax', description=__doc__.partition('\n')[0],
    formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--version', action='version', version=__version__)
  commands = parser.add_subparsers(metavar='COMMAND')
  for command, summary in COMMANDS.items():
    if command != name:
      commands.add_parser(command, help=summary, add_help=False)
      continue
    module = importlib.import_module(f'sana_jax.launch.{command}')
    sub = commands.add_parser(
      command, help=summary, description=module.__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(sub)
    sub.set_defaults(
      run=module.run, overrides=getattr(module, 'OVERRIDES', False))
  return parser


def fail(message: str) -> int:
  """Says what was wrong; the exit code of a user's mistake."""
  print(f'sana-jax: error: {message}', file=sys.stderr)
  return 2


if __name__ == '__main__':
  sys.exit(main())
