"""What a command says while it works."""

import logging
import pathlib
import sys

from absl import logging as absl_logging
from tqdm import tqdm

import sana_jax
from sana_jax.printable import message

_OURS = str(pathlib.Path(sana_jax.__file__).parent)


class Lines(logging.Handler):
  """Log lines on stderr, above the progress bar where there is one.

  Libraries that share absl's logger are heard from WARNING on.
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
  """Shows warnings as `Lines`, unless the program logs in its own way."""
  logging.basicConfig(handlers=[Lines()])


def show_logs() -> None:
  """Shows what the package logs, unless the program logs in its own way."""
  silence_closed_loop_errors()
  show_warnings()
  absl_logging.set_verbosity(absl_logging.INFO)


def silence_closed_loop_errors() -> None:
  """Hides "Event loop is closed" errors of orbax's and TensorStore's threads.

  They print a traceback for each array that was not written, after a failed
  save whose error is reported by itself.
  """
  known = lambda kind, error: (
    kind is RuntimeError and str(error) == 'Event loop is closed'
  )
  unraisable = sys.unraisablehook
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  sys.unraisablehook = lambda u: (
    None if known(u.exc_type, u.exc_value) else unraisable(u)
  )
  sys.excepthook = lambda kind, error, trace: (
    None if known(kind, error) else sys.__excepthook__(kind, error, trace)
  )
