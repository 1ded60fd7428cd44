"""Reports of prompt lines that were skipped, each once across restarts."""

from collections.abc import Sequence
import pathlib
import sys

from sana_jax.inference import skipped
from sana_jax.inference.jobs import Problem
from sana_jax.printable import printable

_SHOWN = 20  # Reports on the terminal; the list has all.


def tell(reports: Sequence[str]) -> None:
  """Prints the first of the reports to stderr, and how many more there are."""
  more = len(reports) - _SHOWN
  for report in [*reports[:_SHOWN], *[f'and {more:,} more.'] * (more > 0)]:
    print(f'sana-jax: {printable(report)}', file=sys.stderr)


def part_name() -> str:
  """Ending of the names of a process's own files; none for a single process."""
  import jax

  index, count = jax.process_index(), jax.process_count()
  return f'-{index:05d}-of-{count:05d}' if count > 1 else ''


class Skipped:
  """Skipped lines of a run: printed, listed in its folder, and counted.

  Of several processes, the first reports what all of them know.
  """

  def __init__(
    self, out: pathlib.Path, file: str | None, problems: Sequence[Problem]
  ):
    import jax

    self._file, self._count = file or '--prompt', len(problems)
    self._path = out / f'skipped{part_name()}.jsonl'
    self._mine = [] if jax.process_index() else list(problems)
    self._known = set(skipped.read(self._path))
    # Those of an earlier run that may turn up again stay known until the end.
    skipped.write(self._path, [*self._mine, *self._known])
    self._report(self._mine)

  def add(self, problems: Sequence[Problem]) -> None:
    """Problems that came up while pictures were made; these are the last."""
    self._count += len(problems)
    skipped.write(self._path, [*self._mine, *problems])
    self._report(problems)

  def conclude(self, lines: int, most: float) -> int:
    """Prints how many of all lines were skipped; returns the exit code."""
    if not self._count:
      return 0
    too_many = self._count > most * lines
    tell(
      [
        f'{self._count:,} of {lines:,} lines of {self._file} were skipped'
        + (f', more than --max-bad-fraction={most:g}' if too_many else '')
        + f'; they are in {self._path}.'
      ]
    )
    return int(too_many)

  def _report(self, problems):
    tell(
      [
        f'{self._file}, {p} It is skipped.'
        for p in problems
        if p not in self._known
      ]
    )
