"""Command-line tools of schedulers and clouds."""

from collections.abc import Sequence
import shlex
import shutil
import subprocess

from sana_jax.errors import UserError
from sana_jax.printable import printable


def require(tool: str, advice: str) -> None:
  """Raises UserError, with advice, if the tool is not installed."""
  if not shutil.which(tool):
    raise UserError(
      f'There is no {tool} on this machine; {advice}.', key='PATH', value=tool
    )


def call(words: Sequence[str]) -> str:
  """Runs a tool; returns its output as one printable line.

  Raises UserError, with the tool's message, if it fails or cannot start.
  """
  try:
    done = subprocess.run(words, capture_output=True, check=False)
  except OSError as e:
    raise UserError(
      f'{words[0]} cannot be started ({e.strerror}).',
      key='PATH',
      value=words[0],
    ) from e
  if done.returncode:
    raise UserError(
      f'{printable(shlex.join(words))} failed: {_line(done.stderr)}',
      key=words[0],
      value=done.returncode,
    )
  return _line(done.stdout)


def _line(output: bytes) -> str:
  return printable(' '.join(output.decode(errors='replace').split()))
