"""Standard output and standard error of a command.

Control characters, and characters that the terminal's encoding lacks, are
escaped, whether printed by a command or a library. If the reader of the results
is gone, the command ends as if by SIGPIPE; if that of the log is gone, it
continues.
"""

from collections.abc import Iterator
import contextlib
import os
import re
import sys

from sana_jax.errors import UserError
from sana_jax.printable import printable

CLOSED = 128 + 13  # Exit code of SIGPIPE in a shell.
# Escapes of progress bars and libraries: colours, and one line up.
_HARMLESS = re.compile(r'(\x1b\[[0-9;]{0,12}[mA])')
_PLAIN = re.compile(r'[\n\r\t -~]*')


class Results:
  """Standard output; a failure to write ends the command."""

  def __init__(self, stream):
    self._stream = stream

  def __getattr__(self, name):
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    """Writes escaped text."""
    with self._failing():
      self._stream.write(escaped(text, self._stream.encoding or 'utf-8'))
    return len(text)

  def writelines(self, lines) -> None:
    for line in lines:
      self.write(line)

  def flush(self) -> None:
    with self._failing():
      self._stream.flush()

  @contextlib.contextmanager
  def _failing(self):
    try:
      yield
    except BrokenPipeError:
      self._discard()
      raise SystemExit(CLOSED) from None
    except OSError as e:
      self._discard()
      raise UserError(
        f'Standard output cannot be written ({e.strerror}).', value=e.errno
      ) from e

  def _discard(self):
    """Discards buffered and further output.

    Otherwise Python retries the write at exit.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, self._stream.fileno())
    os.close(nowhere)


class Log(Results):
  """Standard error; failures to write are ignored."""

  @contextlib.contextmanager
  def _failing(self):
    with contextlib.suppress(OSError):
      yield


def escaped(text: str, encoding: str) -> str:
  """Escapes a text for a terminal; newlines and tabs are kept."""
  if _PLAIN.fullmatch(text):
    return text
  parts = _HARMLESS.split(text)
  parts[::2] = [printable(part, len(part), '\n\r\t') for part in parts[::2]]
  return ''.join(parts).encode(encoding, 'backslashreplace').decode(encoding)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
  """Redirects output through `Results` and `Log` until the block ends."""
  before = sys.stdout, sys.stderr
  open_descriptors()
  nowhere = None
  if None in before:
    nowhere = open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115
  sys.stdout, sys.stderr = (
    Results(before[0] or nowhere),
    Log(before[1] or nowhere),
  )
  try:
    yield
  finally:
    sys.stdout, sys.stderr = before
    if nowhere:
      nowhere.close()


def open_descriptors() -> None:
  """Opens descriptors 0, 1 and 2 if the shell closed them (`>&-`).

  Otherwise the next file opened would get one of these numbers, and libraries'
  output would be written into it.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # It gets the lowest free number.
