"""Whether a run that ended is started again, and when: a pure function.

A restart is worth its while if it moves the newest checkpoint. What was told to
stop (before a time limit, by a scheduler, by Ctrl-C) has not failed.
"""

from collections.abc import Sequence
import dataclasses

DONE, MISTAKE, NO_PROGRESS = 0, 2, 3  # Exit codes.


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One start of all processes.

  Attributes:
    step: of the newest checkpoint when it began; 0 for none.
    exit_code: None where nobody was left to note it.
    asked: it was told to stop.
  """

  step: int
  exit_code: int | None = None
  asked: bool = False


@dataclasses.dataclass(frozen=True)
class Policy:
  """When to give up, and how long to wait before that.

  Attributes:
    without_progress: restarts in a row that moved no checkpoint.
    restarts: in all.
    wait_seconds: before a restart; doubled for each without progress.
  """

  without_progress: int = 2
  restarts: int = 100
  wait_seconds: float | int = 10.0
  most_seconds: float | int = 600.0


@dataclasses.dataclass(frozen=True)
class Start:
  """Start (again) after so many seconds."""

  seconds: float | int = 0.0


@dataclasses.dataclass(frozen=True)
class Stop:
  """Leave it at that, with this exit code, and say why."""

  exit_code: int
  said: str = ''


def decide(
  history: Sequence[Attempt], step: int, policy: Policy
) -> Start | Stop:
  """What to do next, where `step` is that of the newest checkpoint now."""
  if not history or history[-1].asked:
    return Start()
  code = history[-1].exit_code
  if code == DONE:
    return Stop(DONE)
  if code == MISTAKE:
    return Stop(
      MISTAKE,
      'That is a mistake in a config, a flag or the data, '
      'which no restart mends: see the log, and launch again.',
    )
  code = 1 if code is None else code
  restarts = len(history) - 1
  if restarts >= policy.restarts:
    return Stop(
      code,
      f'It was restarted {restarts} times, as often as '
      '--restarts allows; see the logs.',
    )
  idle = fruitless(history, step)
  if idle >= policy.without_progress:
    return Stop(
      code,
      f'{times(idle)} made no progress (the newest checkpoint '
      f'is still of step {step}): see the logs, and launch again '
      'once it is mended (--restarts-without-progress says how '
      'often to try).',
    )
  return Start(min(policy.most_seconds, policy.wait_seconds * 2**idle))


def fruitless(history: Sequence[Attempt], step: int) -> int:
  """Restarts in a row, up to now, that moved no checkpoint."""
  failed = [a for a in history if not a.asked]
  count = 0
  while count < len(failed) and failed[-1 - count].step >= step:
    count += 1
  return max(0, count - 1) if count == len(failed) else count


def times(count: int) -> str:
  """For people."""
  return 'A restart' if count == 1 else f'{count} restarts in a row'
