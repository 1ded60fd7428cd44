"""Starts a run, and starts it again as long as that is worth its while."""

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
  """What is supervised.

  Attributes:
    start: does an attempt, by its number, and returns the exit code.
    workdir: where its checkpoints are.
    notes: the file of its attempts.
    once: whoever started this starts it again.
  """

  start: Callable[[int], int]
  workdir: epath.PathLike
  notes: epath.PathLike
  policy: restarts.Policy = restarts.Policy()
  once: bool = False


def supervise(run: Run, requests: Requests) -> int:
  """The exit code of the last attempt.

  Attempts are noted before they start, so that those of a supervisor that was
  killed count, too. What is over is forgotten: a later launch begins afresh.
  """
  attempts = history.read(run.notes)
  while True:
    step = history.newest_step(run.workdir)
    verdict = restarts.decide(attempts, step, run.policy)
    if isinstance(verdict, restarts.Stop):
      return _over(run, verdict)
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
    told = [*attempts, restarts.Attempt(step, asked=True)]
    requests.noted = functools.partial(_note, run.notes, told)
    code = run.start(len(attempts))
    asked = bool(requests.stop)
    attempts.append(dataclasses.replace(attempt, exit_code=code, asked=asked))
    if code == restarts.DONE:
      return _over(run, restarts.Stop(code))
    _note(run.notes, attempts)
    if asked or (run.once and code != restarts.MISTAKE):
      return code


def _note(notes, attempts):
  """Writes the notes, if it can be done: a run must still be stopped."""
  try:
    history.write(notes, attempts)
  except UserError as e:
    logging.warning('The attempts could not be noted: %s', e)


def _over(run, verdict):
  history.forget(run.notes)
  if verdict.said:
    logging.error('%s', verdict.said)
  if run.once and verdict.exit_code not in (restarts.DONE, restarts.MISTAKE):
    return restarts.NO_PROGRESS
  return verdict.exit_code
