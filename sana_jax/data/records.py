"""Bad records: skipped, counted by name, and fatal if there are too many."""

import threading
from typing import Any

from absl import logging

from sana_jax.errors import UserError
from sana_jax.printable import counted

MAX_BAD_FRACTION = 0.05
# Exceptions of sources and transforms for damaged data, besides BadRecord.
DAMAGED = (ValueError, OSError, EOFError, SyntaxError, LookupError)
# Least number of records that the fraction of bad ones is taken of.
_ENOUGH_SEEN = 1000
_NAMED = 5


class BadRecord(ValueError):
  """A record that cannot be used; `name` identifies it to the user."""

  def __init__(self, name: str, reason: str):
    super().__init__(f'{name}: {reason}')
    self.name = name
    self.reason = reason


def name_of(source: Any, index: int) -> str:
  """Name of a record: its file and row or key, if the source has it."""
  name = getattr(source, 'name', None)
  return name(int(index)) if callable(name) else f'record {index}'


class BadRecords:
  """Counter of a source's distinct bad records; raises at too many.

  The limit is `max_fraction` of the source's `total` records, or of those seen
  so far if these are fewer, as in large sources.
  """

  def __init__(self, total: int, max_fraction: float = MAX_BAD_FRACTION):
    if not 0 <= max_fraction <= 1:
      raise UserError(
        f'max_bad_fraction={max_fraction} is not a fraction; '
        'set it to 0 (no bad record) up to 1 (any number).',
        key='data.max_bad_fraction',
        value=max_fraction,
        allowed='0 to 1',
      )
    self.reasons: dict[str, str] = {}
    self._total = total
    self._max_fraction = max_fraction
    self._seen = 0
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self.reasons)

  @property
  def last(self) -> str:
    """Name and reason of the newest bad record."""
    return '{}: {}'.format(*list(self.reasons.items())[-1])

  def saw_good(self, count: int = 1) -> None:
    """Counts records that were read successfully."""
    self._seen += count  # A lost update between threads is harmless.

  def add(self, bad: BadRecord) -> None:
    """Counts and logs a bad record once; raises UserError above the limit."""
    with self._lock:
      self._seen += 1
      if bad.name not in self.reasons:
        self.reasons[bad.name] = bad.reason
        logging.warning('Skipped bad record %s', bad)
      base = min(self._total, max(self._seen, _ENOUGH_SEEN))
      if len(self.reasons) > self._max_fraction * base:
        raise UserError(
          self._complaint(base),
          key='data.max_bad_fraction',
          value=list(self.reasons),
          allowed=f'{int(self._max_fraction * base)} or fewer',
        )

  def _complaint(self, base):
    named = [
      f'{name} ({reason})'
      for name, reason in list(self.reasons.items())[:_NAMED]
    ]
    more = len(self.reasons) - len(named)
    if more:
      named.append(f'and {more} more')
    return (
      f'{len(self.reasons):,} of {counted(base, "record is", "records are")} '
      'bad, more than '
      f'max_bad_fraction={self._max_fraction} allows: '
      f'{", ".join(named)}; repair or remove them, or raise '
      'data.max_bad_fraction.'
    )
