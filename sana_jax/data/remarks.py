"""Files and values that a source leaves out, counted and logged by reason."""

from collections.abc import Iterable, Iterator
import posixpath
import threading

from absl import logging

from sana_jax.data import files
from sana_jax.printable import printable

HIDDEN = 'hidden files are not read'


class Remarks:
  """Counter by reason, with the first name of each; thread-safe."""

  def __init__(self):
    self.counts: dict[str, int] = {}
    self.first: dict[str, str] = {}
    self._lock = threading.Lock()

  def add(self, reason: str, name: str, count: int = 1) -> None:
    """Counts a file or record, and logs the reason if it is new."""
    with self._lock:
      is_new = reason not in self.counts
      self.counts[reason] = self.counts.get(reason, 0) + count
      self.first.setdefault(reason, name)
    if is_new:
      logging.warning(
        '%s: %s%s.',
        printable(name, 200),
        reason,
        f' (and {count - 1:,} more)' if count > 1 else '',
      )

  def add_all(self, found: 'Tally') -> None:
    """Counts the entries of a tally."""
    for reason, (count, name) in found.items():
      self.add(reason, name, count)

  def summary(self) -> str:
    """Reasons and counts as the end of a sentence, or ''."""
    return summary(
      {reason: (n, self.first[reason]) for reason, n in self.counts.items()}
    )

  def lines(self) -> Iterator[str]:
    """A line per reason: count, reason and first name."""
    for reason, count in self.counts.items():
      yield f'{count:,}: {reason}; the first is {self.first[reason]}'


# Count and first name by reason.
Tally = dict[str, tuple[int, str]]


def tally(found: Iterable[tuple[str, str]]) -> Tally:
  """Tally of (reason, name) in their order."""
  out: Tally = {}
  for reason, name in found:
    count, first = out.get(reason, (0, name))
    out[reason] = count + 1, first
  return out


def summary(found: Tally) -> str:
  """A tally as the end of a sentence, or ''."""
  parts = ', '.join(f'{reason} ({n:,})' for reason, (n, _) in found.items())
  return f'; left out: {parts}' if parts else ''


def unread(name: str) -> str:
  """Reason why a file of this name is not read."""
  base = posixpath.basename(name)
  if base.startswith('.'):
    return HIDDEN
  suffix = posixpath.splitext(base)[1].lower()
  return (
    f'files of {suffix} are not read'
    if suffix
    else 'files without a suffix are not read'
  )


def unread_beside(path: str, used: Iterable[str]) -> Tally:
  """Tally of the files of a folder that are not used; empty for patterns."""
  if any(c in path for c in '*?[{') or not files.is_folder(path):
    return {}
  kept = {posixpath.basename(name) for name in used}
  here = files.expand(f'{path.rstrip("/")}/*')
  return tally(
    (unread(name), name)
    for name in here
    if posixpath.basename(name) not in kept
  )
