"""User-facing errors, suggestions of names, and out-of-memory detection."""

from collections.abc import Collection, Iterator, Sequence
import contextlib
import difflib
import re
from typing import Any

# As XLA says it, of a program that it compiles or runs.
_OUT_OF_MEMORY = re.compile(
  r'RESOURCE_EXHAUSTED|[Oo]ut of memory|CompileTimeHbmOom|Exceeded hbm'
)


class UserError(ValueError):
  """One sentence: what was got, what is allowed, which key or flag to change.

  Commands print it without a traceback and end with its exit code.

  Attributes:
    key: the config key, field or flag to change; '' where it is none.
    value: what it was.
    allowed: the values that are allowed, or a condition in words.
  """

  exit_code = 2

  def __init__(
    self,
    message: str = '',
    *,
    key: str = '',
    value: Any = None,
    allowed: Collection[str] | str | None = None,
  ):
    super().__init__(message)
    self.key, self.value, self.allowed = key, value, allowed

  def within(self, where: str) -> 'UserError':
    """The same error with the file or flag in which it arose."""
    return UserError(
      f'{where}: {self}', key=self.key, value=self.value, allowed=self.allowed
    )


class Trouble(UserError):
  """What may pass by itself: a disk, a bucket or a host that does not answer.

  Who started the command may start it again.
  """

  exit_code = 75  # EX_TEMPFAIL of sysexits.h.


def joined(problems: Sequence[UserError]) -> UserError:
  """One sentence of several; its key, value and allowed are the first one's."""
  first = problems[0]
  return UserError(
    '; '.join(str(p).rstrip('.') for p in problems) + '.',
    key=first.key,
    value=first.value,
    allowed=first.allowed,
  )


def did_you_mean(name: str, allowed: Collection[str], prefix: str = '') -> str:
  """' (did you mean ...?)' with the nearest allowed names, or ''.

  Args:
    prefix: of each name that is shown.
  """
  near = difflib.get_close_matches(name, list(allowed), n=2, cutoff=0.5)
  names = ' or '.join(prefix + found for found in near)
  return f' (did you mean {names}?)' if near else ''


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
      f'The memory of the device does not suffice; {advice}'
    ) from e
