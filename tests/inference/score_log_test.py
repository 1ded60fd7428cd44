"""Scores of candidates on disk."""

import os

import pytest

from sana_jax.errors import UserError
from sana_jax.inference.score_log import key_of, ScoreLog

pytestmark = pytest.mark.fast
ROWS = [('a', n, {'x': n / 3, 'y': float(n)}) for n in range(4)]


def test_scores_are_read_again_to_the_bit(tmp_path):
  ScoreLog(tmp_path, 'scores.jsonl').add(ROWS)
  again = ScoreLog(tmp_path, 'scores.jsonl')
  assert again.of('a', ('x', 'y'), 9) == {n: scores for _, n, scores in ROWS}
  assert sorted(again.of('a', ('x',), 2)) == [0, 1]
  assert again.of('a', ('x', 'z'), 9) == again.of('b', ('x',), 9) == {}


def test_a_torn_last_line_is_dropped_and_its_candidate_scored_again(tmp_path):
  path = tmp_path / 'scores.jsonl'
  ScoreLog(tmp_path, path.name).add(ROWS)
  path.write_bytes(path.read_bytes()[:-9])
  log = ScoreLog(tmp_path, path.name)
  assert sorted(log.of('a', ('x',), 9)) == [0, 1, 2]
  log.add(ROWS[3:])
  assert sorted(ScoreLog(tmp_path, path.name).of('a', ('x',), 9)) == [
    0,
    1,
    2,
    3,
  ]


@pytest.mark.parametrize(
  'line',
  [
    '{"key": 1}',
    '[]',
    '{"key": "a", "number": 9, "scores": {"x": "1"}}',
    '{"key": "a", "number": -1, "scores": {"x": 1}}',
    '{"key": "a", "number": 9, "scores": {"x": NaN}}',
  ],
)
def test_other_lines_are_skipped(tmp_path, line):
  (tmp_path / 'scores.jsonl').write_text(line + '\n')
  assert not ScoreLog(tmp_path, 'scores.jsonl').of('a', ('x',), 10)


def test_a_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / 'scores.jsonl')
  with pytest.raises(UserError) as error:
    ScoreLog(tmp_path, 'scores.jsonl')
  assert error.value.key == '--out'


def test_the_key_depends_on_the_picture_and_not_on_the_choice():
  about = {'prompt': 'a cat', 'seed': 1, 'candidates': 8, 'rank': 0}
  same = about | {'candidates': 16, 'rank': 3, 'scorer': 'x'}
  assert key_of(about) == key_of(same)
  assert key_of(about) != key_of(about | {'seed': 2})
