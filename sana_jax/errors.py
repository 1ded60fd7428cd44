"""User-facing errors, suggestions of names, and out-of-memory detection."""

from collections.abc import Collection, Iterator, Sequence
import contextlib
import difflib
import re
from typing import Any

# XLA's messages, while it compiles or runs a program.
_OUT_OF_MEMORY = re.compile(
  r'RESOURCE_EXHAUSTED|[Oo]ut of memory|CompileTimeHbmOom|Exceeded hbm'
)


class UserError(ValueError):
  """A one-line error: value got, allowed values, and key or flag to change.

  Commands print it without a traceback and exit with its exit code.

  Attributes:
    key: the config key (`data.path`, without `config.`), field or flag to
      change; '' if there is none.
    value: the invalid value.
    allowed: the allowed values, or a condition in words.
  """

  exit_code = 2

  def __init__(
    self,
    message: str = '',
    *,
    key: str = '',
    value: Any = None,
    allowed: Collection[Any] | str | None = None,
  ):
    super().__init__(message)
    self.key, self.value, self.allowed = key, value, allowed

  def within(self, where: str) -> 'UserError':
    """The same error with the file or flag in which it arose."""
    return UserError(
      f'{where}: {self}', key=self.key, value=self.value, allowed=self.allowed
    )


class TransientError(UserError):
  """A failure worth retrying, such as an unreachable disk, bucket or host."""

  exit_code = 75  # EX_TEMPFAIL of sysexits.h.


def joined(problems: Sequence[UserError]) -> UserError:
  """One error for several; key, value and allowed are those of the first."""
  first = problems[0]
  return UserError(
    '; '.join(str(p).rstrip('.') for p in problems) + '.',
    key=first.key,
    value=first.value,
    allowed=first.allowed,
  )


def did_you_mean(
  name: str, allowed: Collection[str], prefix: str = '', cutoff: float = 0.5
) -> str:
  """' (did you mean ...?)' with the nearest allowed names, or ''.

  Args:
    prefix: prepended to each name in the output.
    cutoff: similarity that a name needs, of 1 for the same.
  """
  near = difflib.get_close_matches(name, list(allowed), n=2, cutoff=cutoff)
  names = ' or '.join(prefix + found for found in near)
  return f' (did you mean {names}?)' if near else ''


def is_out_of_memory(message: str) -> bool:
  """Whether an error's message reports that a device ran out of memory."""
  return _OUT_OF_MEMORY.search(message) is not None


@contextlib.contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
  """Converts a device's out-of-memory error to a UserError with `advice`."""
  try:
    yield
  except RuntimeError as e:  # JAX's own is a subclass.
    if not is_out_of_memory(str(e)):
      raise
    raise UserError(f'Out of device memory; {advice}') from e
