"""sana-jax: train, sample, evaluate and prepare data, by one command.

Bad input ends with a one-line error and exit code 2, a transient failure with
one and 75, a closed standard output with 141; files are written atomically.
"""

import argparse
from collections.abc import Mapping, Sequence
import importlib
import os
import sys

from sana_jax import extras, printable
from sana_jax.backends import preferred
from sana_jax.errors import UserError
from sana_jax.launch import streams, system_errors, terminal
from sana_jax.launch.flags import Invalid, Parser, prompt, shown, similar, text
from sana_jax.version import __version__

COMMANDS = {
  'train': 'train a model that a config describes',
  'launch': 'train on many processes: here, SLURM, GKE or TPU VMs',
  'sample': 'generate pictures from prompts',
  'demo': 'generate pictures in a web page',
  'evaluate': 'score how well a model follows prompts',
  'export': 'write the weights of a run, at any step',
  'push': 'upload a model folder to the Hugging Face hub',
  'convert': "convert between diffusers', NVIDIA's and our own format",
  'grow': 'make a transformer deeper, to train it further',
  'prune': 'leave out the least important blocks of a transformer',
  'lora': 'resize, merge or extract adapters',
  'zoo': 'list the published checkpoints',
  'parity': 'compare with the PyTorch references',
  'plan': 'compile for an absent pod, and rank layouts',
  'bench': 'measure speed and memory',
  'data': 'prepare and describe data sets',
}
_EXAMPLES = """examples:
  sana-jax sample --model shapes --prompt "a red circle" --out out/
  sana-jax train --config shapes_text_encoder --workdir out/text_encoder
  sana-jax COMMAND --help"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command; returns the exit code."""
  argv = sys.argv[1:] if argv is None else list(argv)
  with streams.guarded():
    terminal.show_warnings()
    try:
      try:
        return run(argv)
      finally:
        sys.stdout.flush()
    except UserError as e:
      return fail(str(e), e.exit_code)
    except (OSError, MemoryError) as e:
      if (message := system_errors.message(e)) is None:
        raise
      return fail(message)
    except ModuleNotFoundError as e:
      if (e.name or 'sana_jax').startswith('sana_jax'):
        raise
      return fail(str(extras.missing(e.name)))
    except KeyboardInterrupt:
      print('sana-jax: interrupted', file=sys.stderr)
      return 130


def run(argv: list[str]) -> int:
  """Parses the arguments and runs the command."""
  check_folder()
  name = argv[0] if argv and argv[0] in COMMANDS else None
  parser, command = build_parsers(name)
  args, rest = parser.parse_known_args(argv)
  if command is None:
    if not rest:
      parser.print_help()
      return 2
    command = parser
  elif getattr(args, 'overrides', False):
    check_overrides(rest, getattr(args, 'command', command))
    return args.run(args, rest)
  if rest:
    raise unknown(rest[0], getattr(args, 'command', command))
  with preferred(getattr(args, 'kernels', None) or {}, '--kernels'):
    return args.run(args)


def check_folder() -> None:
  """Raises UserError if the current folder was removed."""
  try:
    os.getcwd()
  except FileNotFoundError as e:
    raise UserError(
      'The current folder no longer exists; change into another.',
      key='current folder',
    ) from e


def check_overrides(overrides: Sequence[str], command: Parser) -> None:
  """Raises UserError unless all are --config.key=value and printable."""
  for override in overrides:
    if not override.startswith('--config.'):
      raise unknown(override, command, _config_flags())
    key, _, value = override.partition('=')
    try:
      prompt(key, keep='')
      if value:
        text(value)
    except Invalid as e:
      raise UserError(
        f'{shown(key)}: {e}.',
        key=key.removeprefix('--config.'),
        value=e.value,
        allowed=e.allowed,
      ) from e


def _config_flags() -> dict[str, str]:
  """The keys of every run as overrides, by a flag that may stand for one."""
  from sana_jax import config

  return {f'--{key}': f'--config.{key}' for key in config.table(None)}


def unknown(
  argument: str, command: Parser, instead: Mapping[str, str] | None = None
) -> UserError:
  """Error for an unknown argument of the command.

  Args:
    instead: right arguments by wrong ones.
  """
  flags, name = command.flags(), argument.partition('=')[0]
  right = (instead or {}).get(name.replace('-', '_').replace('__', '--', 1))
  hint = f'; did you mean {right}?' if right else similar(name, flags)
  return UserError(
    f'Unknown argument {shown(argument)}; {command.prog} has '
    f'{", ".join(flags)}{hint}.',
    key=name,
    value=argument,
    allowed=tuple(flags),
  )


def build_parsers(name: str | None) -> tuple[Parser, Parser | None]:
  """Returns the whole parser and the command's; imports no other command."""
  parser = Parser(
    prog='sana-jax',
    description=__doc__.partition('\n')[0],
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--version', action='version', version=__version__)
  commands = parser.add_subparsers(metavar='COMMAND')
  mine = None
  for command, summary in COMMANDS.items():
    if command != name:
      commands.add_parser(command, help=summary, add_help=False)
      continue
    module = importlib.import_module(f'sana_jax.launch.{command}')
    mine = commands.add_parser(
      command,
      help=summary,
      description=module.__doc__,
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(mine)
    mine.set_defaults(
      run=module.run, overrides=getattr(module, 'OVERRIDES', False)
    )
  return parser, mine


def fail(message: str, exit_code: int = UserError.exit_code) -> int:
  """Prints an error, escaped and truncated; returns the exit code."""
  print(f'sana-jax: error: {printable.message(message)}', file=sys.stderr)
  return exit_code


if __name__ == '__main__':
  sys.exit(main())
