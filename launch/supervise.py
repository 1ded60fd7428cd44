"""Run a command until it is done, as the scripts of sana-jax launch do.

  python -m sana_jax.launch.supervise --workdir DIR --notes FILE -- COMMAND ...

Restarts it, with exponential backoff, unless it ended with 0 or 2 or restarts
advanced no checkpoint. SIGTERM and SIGINT are forwarded.
"""

import argparse
from collections.abc import Sequence
import re
import shutil
import subprocess
import sys

from sana_jax.errors import UserError
from sana_jax.launch import cli, terminal
from sana_jax.launch.flags import not_negative, Parser, refused, text, whole
from sana_jax.launching import processes, supervisor
from sana_jax.launching.restarts import Policy
from sana_jax.locks.holder import attempt_env
from sana_jax.printable import printable


def add_policy_flags(parser: argparse.ArgumentParser) -> None:
  """Declares --restarts, --restarts-without-progress and --wait-seconds."""
  parser.add_argument(
    '--restarts',
    type=whole(0),
    default=Policy.restarts,
    metavar='N',
    help='maximum of restarts (default: %(default)s)',
  )
  parser.add_argument(
    '--restarts-without-progress',
    type=whole(0, 1000),
    metavar='N',
    default=Policy.without_progress,
    help='in a row that may leave the newest checkpoint where it was '
    '(default: %(default)s)',
  )
  parser.add_argument(
    '--wait-seconds',
    type=not_negative,
    metavar='S',
    default=Policy.wait_seconds,
    help='before a restart, doubled for each without progress (default: '
    '%(default)g)',
  )


def policy_of(args) -> Policy:
  """Returns the policy of the flags."""
  return Policy(
    args.restarts_without_progress, args.restarts, args.wait_seconds
  )


def policy_words(policy: Policy) -> list[str]:
  """Returns the flags of a policy."""
  return [
    f'--restarts={policy.restarts}',
    f'--restarts-without-progress={policy.without_progress}',
    f'--wait-seconds={policy.wait_seconds:g}',
  ]


def parser() -> Parser:
  """Parser of the arguments before --."""
  found = Parser(
    prog='sana_jax.launch.supervise',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  found.add_argument(
    '--workdir',
    required=True,
    type=text,
    metavar='DIR',
    help='folder with its checkpoints',
  )
  found.add_argument(
    '--notes',
    required=True,
    type=text,
    metavar='FILE',
    help='history of its attempts; read if it exists',
  )
  add_policy_flags(found)
  found.add_argument(
    '--once',
    action='store_true',
    help='leave restarts to the caller; exit code 3 means not to restart',
  )
  found.add_argument(
    '--process',
    type=_indices,
    default='0',
    metavar='N-M',
    help='of several supervisors, that with zeros alone '
    'decides (default: %(default)s)',
  )
  found.add_argument(
    '--stop-with',
    type=text,
    metavar='WORD',
    action='append',
    help='a word of the command that stops it in place of '
    'SIGTERM; no shell parses it',
  )
  found.add_argument(
    '--again-with',
    type=text,
    metavar='WORD',
    action='append',
    help='the same, of the command to run after it was '
    'stopped because of SIGUSR1',
  )
  return found


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  ours, dashes, command = _split(list(argv))
  args = parser().parse_args(ours)
  if not dashes or not command:
    raise UserError(
      'There is no command; give it after --.',
      key='--',
      value='',
      allowed='a command',
    )
  for words in filter(None, (args.stop_with, args.again_with)):
    if not shutil.which(words[0]):
      raise UserError(
        f'There is no command {printable(words[0])} on this '
        'machine; the run could not be stopped with it.',
        key='--stop-with' if words is args.stop_with else '--again-with',
        value=words[0],
      )
  terminal.show_logs()
  # It may return only after the run has ended: do not wait for it.
  stop = (
    None
    if not args.stop_with
    else lambda: subprocess.Popen(args.stop_with, start_new_session=True)
  )
  with processes.Requests(requeue=bool(args.again_with)) as requests:
    start = lambda number: processes.run(
      [processes.Process(command, attempt_env(number))], requests, stop=stop
    )
    if re.search('[1-9]', args.process):
      return start(0)
    code = supervisor.supervise(
      supervisor.Run(
        start, args.workdir, args.notes, policy_of(args), args.once
      ),
      requests,
    )
    if requests.requeue and code:
      subprocess.run(args.again_with, check=False)
    return code


def _indices(value: str) -> str:
  """Parses --process."""
  if not re.fullmatch(r'[0-9]+(-[0-9]+)*', value):
    raise refused(value, 'whole numbers, with - between')
  return value


def _split(argv):
  at = argv.index('--') if '--' in argv else len(argv)
  return argv[:at], argv[at : at + 1], argv[at + 1 :]


if __name__ == '__main__':
  try:
    sys.exit(main(sys.argv[1:]))
  except UserError as error:
    sys.exit(cli.fail(str(error), error.exit_code))
