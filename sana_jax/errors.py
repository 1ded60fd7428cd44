"""The exceptions that are told in one sentence, and memory that runs out."""

from collections.abc import Iterator
import contextlib
import re

# As XLA says it, of a program that it compiles or runs.
_OUT_OF_MEMORY = re.compile(
  r'RESOURCE_EXHAUSTED|[Oo]ut of memory|CompileTimeHbmOom|Exceeded hbm')


class UserError(ValueError):
  """One sentence: what was got, what is allowed, which key or flag to change.

  Commands print it without a traceback and end with its exit code.
  """

  exit_code = 2


class Trouble(UserError):
  """What may pass by itself: a disk, a bucket or a host that does not answer.

  Who started the command may start it again.
  """

  exit_code = 75  # EX_TEMPFAIL of sysexits.h.


def is_out_of_memory(said: str) -> bool:
  """Whether the text of an error says that a device's memory ran out."""
  return _OUT_OF_MEMORY.search(said) is not None


@contextlib.contextmanager
def in_memory(advice: str) -> Iterator[None]:
  """Turns a device's memory that runs out into a UserError with `advice`."""
  try:
    yield
  except RuntimeError as e:  # JAX's own is a subclass.
    if not is_out_of_memory(str(e)):
      raise
    raise UserError(
      f'The memory of the device does not suffice; {advice}') from e
