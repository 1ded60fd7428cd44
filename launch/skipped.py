"""Reports of prompt lines that were skipped, each once across restarts."""

from collections.abc import Sequence
import pathlib
import sys

from sana_jax.inference import skipped
from sana_jax.inference.jobs import Problem
from sana_jax.printable import counted, printable

_SHOWN = 20  # Maximum on the terminal; the file lists all.


def report(reports: Sequence[str]) -> None:
  """Prints the first reports to stderr, and the number of further ones."""
  more = len(reports) - _SHOWN
  for line in [*reports[:_SHOWN], *[f'and {more:,} more.'] * (more > 0)]:
    print(f'sana-jax: {printable(line)}', file=sys.stderr)


def part_name() -> str:
  """Suffix of the names of a process's files; empty for a single process."""
  import jax

  index, count = jax.process_index(), jax.process_count()
  return f'-{index:05d}-of-{count:05d}' if count > 1 else ''


class Skipped:
  """Skipped lines of a run: printed, listed in its folder, and counted.

  Problems common to several processes are reported by the first.
  """

  def __init__(
    self, out: pathlib.Path, file: str | None, problems: Sequence[Problem]
  ):
    import jax

    self._file, self._count = file or '--prompt', len(problems)
    self._path = out / f'skipped{part_name()}.jsonl'
    self._mine = [] if jax.process_index() else list(problems)
    self._known = set(skipped.read(self._path))
    # Keep those of an earlier run, which may recur, until the end.
    skipped.write(self._path, [*self._mine, *self._known])
    self._report(self._mine)

  def add(self, problems: Sequence[Problem]) -> None:
    """Adds the final problems, found while pictures were generated."""
    self._count += len(problems)
    skipped.write(self._path, [*self._mine, *problems])
    self._report(problems)

  def conclude(self, lines: int, most: float) -> int:
    """Prints the number of skipped lines; returns the exit code."""
    if not self._count:
      return 0
    too_many = self._count > most * lines
    report(
      [
        f'{self._count:,} of {counted(lines, "line")} of {self._file} '
        + ('was' if self._count == 1 else 'were')
        + ' skipped'
        + (f', more than --max-bad-fraction={most:g}' if too_many else '')
        + f'; see {self._path}.'
      ]
    )
    return int(too_many)

  def _report(self, problems):
    report(
      [
        f'{self._file}, {p} It is skipped.'
        for p in problems
        if p not in self._known
      ]
    )
