"""Starts a run and restarts it while it makes progress."""

from collections.abc import Callable
import dataclasses
import functools

from absl import logging
from etils import epath

from sana_jax.errors import UserError
from sana_jax.launching import history, restarts
from sana_jax.launching.processes import Requests


@dataclasses.dataclass(frozen=True)
class Run:
  """A supervised run.

  Attributes:
    start: (number of the attempt) -> exit code.
    workdir: folder with its checkpoints.
    notes: file of its attempt history.
    once: whether a scheduler, rather than this process, restarts it.
  """

  start: Callable[[int], int]
  workdir: epath.PathLike
  notes: epath.PathLike
  policy: restarts.Policy = restarts.Policy()
  once: bool = False


def supervise(run: Run, requests: Requests) -> int:
  """Runs attempts and returns the exit code of the last one.

  Attempts are recorded before they start, so that those of a killed supervisor
  count. The history is deleted at the end, so that a later launch starts fresh.
  """
  attempts = history.read(run.notes)
  while True:
    step = history.newest_step(run.workdir)
    verdict = restarts.decide(attempts, step, run.policy)
    if isinstance(verdict, restarts.Stop):
      return _finish(run, verdict)
    # The other hosts of a run wait for this one, five minutes at most.
    seconds = min(verdict.seconds, 120) if run.once else verdict.seconds
    if attempts:
      logging.info(
        'Starting again from step %d in %.0f s (exit code %s).',
        step,
        seconds,
        attempts[-1].exit_code,
      )
      requests.sleep(seconds)
      if requests.stop:
        return 128 + requests.stop[0]
    attempt = restarts.Attempt(step)
    history.write(run.notes, [*attempts, attempt])
    stopping = [*attempts, restarts.Attempt(step, stop_requested=True)]
    requests.on_stop = functools.partial(_record, run.notes, stopping)
    code = run.start(len(attempts))
    stopped = bool(requests.stop)
    attempts.append(
      dataclasses.replace(attempt, exit_code=code, stop_requested=stopped)
    )
    if code == restarts.DONE:
      return _finish(run, restarts.Stop(code))
    _record(run.notes, attempts)
    if stopped or (run.once and code != restarts.MISTAKE):
      return code


def _record(notes, attempts):
  """Writes the history; only logs errors, as a run must still be stopped."""
  try:
    history.write(notes, attempts)
  except UserError as e:
    logging.warning('The attempts could not be recorded: %s', e)


def _finish(run, verdict):
  history.delete(run.notes)
  if verdict.reason:
    logging.error('%s', verdict.reason)
  if run.once and verdict.exit_code not in (restarts.DONE, restarts.MISTAKE):
    return restarts.NO_PROGRESS
  return verdict.exit_code
