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
  """Shows what the package logs, unless the program logs in its own way.

  After a failed save, which is told, TensorStore's threads print a traceback
  for each array that they did not write; those are left out.
  """
  sys.excepthook = _without_closed_loops
  show_warnings()
  absl_logging.set_verbosity(absl_logging.INFO)


def _without_closed_loops(kind, error, trace):
  if kind is not RuntimeError or str(error) != 'Event loop is closed':
    sys.__excepthook__(kind, error, trace)


def hush_tensorstore() -> None:
  """Drops the word of orbax's threads on an event loop that is gone.

  They print it after a failed save, whose error is told in one sentence.
  """
  unraisable, uncaught = sys.unraisablehook, sys.excepthook
  known = lambda error: str(error) == 'Event loop is closed'
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  sys.unraisablehook = lambda u: None if known(u.exc_value) else unraisable(u)
  sys.excepthook = lambda kind, error, trace: (
    None if known(error) else uncaught(kind, error, trace))
