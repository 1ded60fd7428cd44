"""Decisions on restarts: a table, and bounds."""

import pytest

from sana_jax.launching.restarts import Attempt, decide, Policy, Start, Stop

pytestmark = pytest.mark.fast

A = Attempt
DEFAULT = Policy()  # 2 without progress, 100 in all, 10 s doubled up to 600 s.
LONG = Policy(without_progress=50)


@pytest.mark.parametrize(
  'history, step, policy, want',
  [
    # The first start, and the end.
    ([], 0, DEFAULT, Start(0)),
    ([], 500, DEFAULT, Start(0)),
    ([A(0, 0)], 900, DEFAULT, Stop(0)),
    # A restart does not fix an error of the user.
    ([A(0, 2)], 0, DEFAULT, Stop(2)),
    ([A(0, 1), A(500, 2)], 500, DEFAULT, Stop(2)),
    # Nothing was saved yet: a first start and two restarts.
    ([A(0, 1)], 0, DEFAULT, Start(10)),
    ([A(0, 1), A(0, 1)], 0, DEFAULT, Start(20)),
    ([A(0, 1), A(0, 1), A(0, 137)], 0, DEFAULT, Stop(137)),
    # Later, two restarts from the same step.
    ([A(0, 1)], 500, DEFAULT, Start(10)),
    ([A(0, 1), A(500, 1)], 500, DEFAULT, Start(20)),
    ([A(0, 1), A(500, 1), A(500, 134)], 500, DEFAULT, Stop(134)),
    # Any new checkpoint resets the count.
    ([A(0, 1), A(0, 1), A(0, 1)], 1, DEFAULT, Start(10)),
    ([A(0, 1), A(500, 1), A(500, 1)], 501, DEFAULT, Start(10)),
    # A checkpoint that turned out damaged is no progress.
    ([A(0, 1), A(500, 1), A(500, 1)], 400, DEFAULT, Stop(1)),
    # A requested stop is no failure: the restart is immediate and not counted.
    ([A(0, 143, True)], 0, DEFAULT, Start(0)),
    ([A(0, 143, True)] * 9, 0, DEFAULT, Start(0)),
    ([A(0, 1), A(0, 143, True), A(0, 1)], 0, DEFAULT, Start(20)),
    ([A(0, 1), A(0, 1), A(0, 143, True), A(0, 1)], 0, DEFAULT, Stop(1)),
    ([A(0, 137, True)], 0, DEFAULT, Start(0)),
    # The supervisor was killed, too: it counts, with an unknown exit code.
    ([A(0, None)], 0, DEFAULT, Start(10)),
    ([A(0, None)] * 3, 0, DEFAULT, Stop(1)),
    # Waiting doubles, up to ten minutes.
    ([A(0, 1)] * 6, 0, LONG, Start(320)),
    ([A(0, 1)] * 7, 0, LONG, Start(600)),
    ([A(0, 1)] * 40, 0, LONG, Start(600)),
    # Limits of restarts.
    ([A(0, 1)], 0, Policy(without_progress=0), Stop(1)),
    ([A(0, 1)], 1, Policy(without_progress=0), Stop(1)),
    ([A(0, 1)], 1, Policy(restarts=0), Stop(1)),
    ([A(0, 1), A(1, 1)], 2, Policy(restarts=2), Start(10)),
    ([A(0, 1), A(1, 1), A(2, 9)], 3, Policy(restarts=2), Stop(9)),
  ],
)
def test_the_decision_follows_from_the_attempts(history, step, policy, want):
  found = decide(history, step, policy)
  if isinstance(want, Stop):
    assert isinstance(found, Stop) and found.exit_code == want.exit_code
  else:
    assert found == want


def test_restarts_are_bounded():
  # Whatever it ends with, and even if each restart makes progress.
  for code in (None, 1, 137, 143):
    history = []
    while isinstance(decide(history, len(history), DEFAULT), Start):
      history.append(A(len(history), code))
      assert len(history) <= 101
    assert len(history) == 101


def test_a_stop_has_a_reason():
  reason = decide([A(0, 1), A(70, 1), A(70, 1)], 70, DEFAULT).reason
  assert reason.startswith(
    '2 restarts in a row made no progress (the newest '
    'checkpoint is still of step 70)'
  )
  assert '--restarts-without-progress' in reason
  assert 'a restart cannot fix' in decide([A(0, 2)], 0, DEFAULT).reason
  assert '--restarts;' in decide([A(0, 1)], 1, Policy(restarts=0)).reason
