"""skipped.jsonl: the unusable lines of a prompt file, a JSON line each.

It is written before a job draws its first picture, so that a restart does not
report the same lines again.
"""

from collections.abc import Sequence
import json
import pathlib

from sana_jax import files
from sana_jax.inference import existing
from sana_jax.inference.jobs import Problem

_TYPES = Problem.__annotations__


def read(path: pathlib.Path) -> list[Problem]:
  """Problems reported by earlier runs."""
  return [
    Problem(**line)
    for line in existing.read_list(path)
    if {k: type(v) for k, v in line.items()} == _TYPES
  ]


def write(path: pathlib.Path, problems: Sequence[Problem]) -> None:
  """Writes the list in order of lines; deletes the file if it is empty."""
  if problems:
    files.write_bytes(
      path,
      b''.join(
        (json.dumps(p._asdict(), ensure_ascii=False) + '\n').encode()
        for p in sorted(set(problems))
      ),
    )
  elif path.is_file():
    path.unlink()
