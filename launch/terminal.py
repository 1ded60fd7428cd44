"""Log output of a command on the terminal."""

import logging
import pathlib
import sys

from absl import logging as absl_logging
from tqdm import tqdm

import sana_jax
from sana_jax.printable import message

_OURS = str(pathlib.Path(sana_jax.__file__).parent)


class Lines(logging.Handler):
  """Log handler that prints to stderr, above the progress bar if there is one.

  Libraries that share absl's logger are shown from WARNING on.
  """

  def emit(self, record: logging.LogRecord) -> None:
    loud = record.levelno >= logging.WARNING
    if loud or record.pathname.startswith(_OURS):
      tqdm.write(self.format(record), file=sys.stderr)

  def format(self, record: logging.LogRecord) -> str:
    at = logging.Formatter().formatTime(record, '%H:%M:%S')
    loud = record.levelno >= logging.WARNING
    name = f'{record.levelname.lower()}: ' if loud else ''
    return f'{at} {name}{message(record.getMessage())}'


def show_warnings() -> None:
  """Prints warnings as `Lines`, unless logging is already configured."""
  logging.basicConfig(handlers=[Lines()])


def show_logs() -> None:
  """Prints the package's logs, unless logging is already configured."""
  silence_orbax_leftovers()
  show_warnings()
  absl_logging.set_verbosity(absl_logging.INFO)


def silence_orbax_leftovers() -> None:
  """Hides errors of orbax's unfinished reads and writes, and of its threads.

  They print a traceback for each unread or unwritten array after a failed
  restore or save, whose error is reported separately.
  """
  unraisable = sys.unraisablehook
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  sys.unraisablehook = lambda u: (
    None if _is_leftover(u.exc_value) else unraisable(u)
  )
  sys.excepthook = lambda kind, error, trace: (
    None if _is_leftover(error) else sys.__excepthook__(kind, error, trace)
  )


def _is_leftover(error: BaseException | None) -> bool:
  """Whether orbax raised it because its event loop has ended."""
  closed = type(error) is RuntimeError and str(error) == 'Event loop is closed'
  return closed or isinstance(getattr(error, '__cause__', None), GeneratorExit)
