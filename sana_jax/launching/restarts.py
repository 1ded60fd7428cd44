"""Decision whether and when a run is restarted: a pure function.

A restart makes progress if it writes a newer checkpoint. A requested stop (at a
time limit, by a scheduler, by Ctrl-C) is not a failure.
"""

from collections.abc import Sequence
import dataclasses

DONE, MISTAKE, NO_PROGRESS = 0, 2, 3  # Exit codes.


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One start of all processes.

  Attributes:
    step: step of the newest checkpoint at the start; 0 for none.
    exit_code: None if the supervisor did not live to record it.
    stop_requested: whether it was requested to stop.
  """

  step: int
  exit_code: int | None = None
  stop_requested: bool = False


@dataclasses.dataclass(frozen=True)
class Policy:
  """Limits of restarts, and delays before them.

  Attributes:
    without_progress: limit of consecutive restarts without a new checkpoint.
    restarts: limit of all restarts.
    wait_seconds: delay before a restart; doubled for each without progress.
    most_seconds: limit of the delay.
  """

  without_progress: int = 2
  restarts: int = 100
  wait_seconds: float | int = 10.0
  most_seconds: float | int = 600.0


@dataclasses.dataclass(frozen=True)
class Start:
  """Decision to start or restart after a delay."""

  seconds: float | int = 0.0


@dataclasses.dataclass(frozen=True)
class Stop:
  """Decision to stop, with an exit code and the reason."""

  exit_code: int
  reason: str = ''


def decide(
  history: Sequence[Attempt], step: int, policy: Policy
) -> Start | Stop:
  """Next decision, given the current step of the newest checkpoint."""
  if not history or history[-1].stop_requested:
    return Start()
  code = history[-1].exit_code
  if code == DONE:
    return Stop(DONE)
  if code == MISTAKE:
    return Stop(
      MISTAKE,
      'This is an error in a config, a flag or the data, '
      'which a restart cannot fix: see the log, and launch again.',
    )
  code = 1 if code is None else code
  restarts = len(history) - 1
  if restarts >= policy.restarts:
    return Stop(
      code,
      f'It was restarted {restarts} times, the limit of '
      '--restarts; see the logs.',
    )
  idle = restarts_without_progress(history, step)
  if idle >= policy.without_progress:
    return Stop(
      code,
      f'{times(idle)} made no progress (the newest checkpoint '
      f'is still of step {step}): see the logs, and launch again '
      'once it is fixed (--restarts-without-progress is the limit).',
    )
  return Start(min(policy.most_seconds, policy.wait_seconds * 2**idle))


def restarts_without_progress(history: Sequence[Attempt], step: int) -> int:
  """Number of latest consecutive restarts without a new checkpoint."""
  failed = [a for a in history if not a.stop_requested]
  count = 0
  while count < len(failed) and failed[-1 - count].step >= step:
    count += 1
  return max(0, count - 1) if count == len(failed) else count


def times(count: int) -> str:
  """Number of restarts as text."""
  return 'A restart' if count == 1 else f'{count} restarts in a row'
