"""Scores of candidates on disk, a line each, so that none is drawn twice.

A line has the key of its prompt and settings, the candidate's number and its
score by each judge. Those of a batch are written at once; after a kill, a last
line without its end is dropped.
"""

from collections.abc import Mapping, Sequence
import hashlib
import json
import math
import os
import pathlib
from typing import Any

from sana_jax.errors import UserError
from sana_jax.inference import existing

# Metadata of a picture that do not change its candidates.
_CHOICE = ('candidates', 'scorer', 'rank', 'version')
Scores = dict[int, dict[str, float]]


def key_of(about: Mapping[str, Any]) -> str:
  """Key of what determines a prompt's candidates, apart from their number."""
  about = {k: about[k] for k in sorted(about) if k not in _CHOICE}
  text = json.dumps(about, ensure_ascii=False, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


class ScoreLog:
  """Scores by key and number; new ones are appended to one file.

  Files of other processes in the folder, and of earlier runs with another
  number of processes, are read, too.
  """

  def __init__(self, folder: pathlib.Path, name: str):
    self._path, self._known = folder / name, {}
    if self._path.is_file():
      _drop_torn_line(self._path)
    elif self._path.exists():  # A pipe would be waited for.
      raise UserError(
        f'{self._path} is not a regular file; remove it or choose another '
        '--out.',
        key='--out',
        value=str(self._path),
        allowed='regular files',
      )
    for path in sorted(folder.glob('scores*.jsonl')):
      for row in existing.read_list(path):
        if _is_valid(row):
          self._keep(row['key'], row['number'], row['scores'])

  def of(self, key: str, judges: Sequence[str], count: int) -> Scores:
    """Scores of the first `count` candidates that all these judges scored."""
    return {
      number: {name: scores[name] for name in judges}
      for number, scores in self._known.get(key, {}).items()
      if number < count and all(name in scores for name in judges)
    }

  def add(self, rows: Sequence[tuple[str, int, Mapping[str, float]]]) -> None:
    """Appends (key, number, scores) of new candidates, on disk on return."""
    text = ''.join(
      json.dumps({'key': key, 'number': number, 'scores': dict(scores)}) + '\n'
      for key, number, scores in rows
    )
    with self._path.open('ab') as file:
      file.write(text.encode())
      file.flush()
      os.fsync(file.fileno())
    for row in rows:
      self._keep(*row)

  def _keep(self, key, number, scores):
    self._known.setdefault(key, {}).setdefault(number, {}).update(scores)


def _drop_torn_line(path):
  whole = path.read_bytes().rfind(b'\n') + 1
  if whole < path.stat().st_size:
    os.truncate(path, whole)


def _is_valid(row):
  """Whether a line has the fields of a score; others are scored again."""
  scores = row.get('scores')
  return (
    isinstance(row.get('key'), str)
    and type(row.get('number')) is int
    and row['number'] >= 0
    and isinstance(scores, dict)
    and all(
      type(x) in (int, float) and math.isfinite(x) for x in scores.values()
    )
  )
