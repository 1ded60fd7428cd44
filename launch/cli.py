"""sana-jax: train, sample, evaluate and prepare data, by one command.

Bad input ends with one sentence and exit code 2, what may pass by itself with
one and 75; nothing is half-written.
"""

import argparse
from collections.abc import Sequence
import errno
import importlib
import sys

from sana_jax.errors import UserError
from sana_jax.launch.backends import preferred
from sana_jax.launch.flags import Parser
from sana_jax.version import __version__

COMMANDS = {
  'train': 'train a model that a config describes',
  'launch': 'train on many processes: here, SLURM, GKE or TPU VMs',
  'sample': 'make pictures of prompts',
  'demo': 'make pictures in a web page',
  'evaluate': 'score how well a model follows prompts',
  'export': 'the weights of a run, at any step',
  'convert': "between diffusers', NVIDIA's and our own format",
  'zoo': 'list the published checkpoints',
  'parity': 'compare with the PyTorch references',
  'plan': 'compile for a pod that is not there, and rank layouts',
  'bench': 'measure speed and memory',
  'data': 'prepare and describe data sets',
}
_EXAMPLES = """examples:
  sana-jax sample --model shapes --prompt "a red circle" --out out/
  sana-jax train --config shapes_text_encoder --workdir out/text_encoder
  sana-jax COMMAND --help"""
# Where a missing package is listed; the rest is in train.
_EXTRAS = {'gradio': 'demo'}
# What the system says of a disk that takes no more.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command; returns the exit code."""
  argv = sys.argv[1:] if argv is None else list(argv)
  try:
    return run(argv)
  except UserError as e:
    return fail(str(e), e.exit_code)
  except OSError as e:
    if e.errno in _FULL:
      return fail(f'No space is left to write {e.filename or "a file"} '
                  f'({e.strerror}); free some, or choose another folder.')
    if e.errno in _DENIED:
      return fail(f'{e.filename} cannot be written ({e.strerror}); choose '
                  'another folder.')
    raise
  except ModuleNotFoundError as e:
    if (e.name or 'sana_jax').startswith('sana_jax'):
      raise
    return fail(f'This needs the package {e.name}; install it with pip install '
                f"'sana_jax[{_EXTRAS.get(e.name, 'train')}]'.")
  except KeyboardInterrupt:
    print('sana-jax: interrupted', file=sys.stderr)
    return 130


def run(argv: list[str]) -> int:
  """Parses the arguments and runs the command."""
  name = argv[0] if argv and argv[0] in COMMANDS else None
  parser, command = build_parsers(name)
  args, rest = parser.parse_known_args(argv)
  if command is None:
    if not rest:
      parser.print_help()
      return 2
    command = parser
  elif getattr(args, 'overrides', False):
    return args.run(args, rest)
  if rest:
    command = getattr(args, 'command', command)
    raise UserError(f'Unknown argument {rest[0]!r}; {command.prog} has '
                    f'{", ".join(command.flags())}.')
  with preferred(getattr(args, 'kernels', None) or {}, '--kernels'):
    return args.run(args)


def build_parsers(name: str | None) -> tuple[Parser, Parser | None]:
  """The whole parser and the command's; no other command is imported."""
  parser = Parser(
    prog='sana-jax', description=__doc__.partition('\n')[0], epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--version', action='version', version=__version__)
  commands = parser.add_subparsers(metavar='COMMAND')
  mine = None
  for command, summary in COMMANDS.items():
    if command != name:
      commands.add_parser(command, help=summary, add_help=False)
      continue
    module = importlib.import_module(f'sana_jax.launch.{command}')
    mine = commands.add_parser(
      command, help=summary, description=module.__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(mine)
    mine.set_defaults(
      run=module.run, overrides=getattr(module, 'OVERRIDES', False))
  return parser, mine


def fail(message: str, exit_code: int = UserError.exit_code) -> int:
  """Says what was wrong; returns the exit code."""
  print(f'sana-jax: error: {message}', file=sys.stderr)
  return exit_code


if __name__ == '__main__':
  sys.exit(main())
