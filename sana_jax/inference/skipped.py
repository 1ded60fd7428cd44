"""skipped.jsonl: lines of a prompt file that cannot be used, a JSON line each.

It is written before a job draws its first picture, so that a restart knows
which lines were reported already.
"""

from collections.abc import Sequence
import json
import pathlib

from sana_jax import files
from sana_jax.inference import kept
from sana_jax.inference.jobs import Problem

_TYPES = Problem.__annotations__


def read(path: pathlib.Path) -> list[Problem]:
  """Problems that earlier runs reported."""
  return [
    Problem(**line)
    for line in kept.read_list(path)
    if {k: type(v) for k, v in line.items()} == _TYPES
  ]


def write(path: pathlib.Path, problems: Sequence[Problem]) -> None:
  """Writes the list in order of lines; no file where there are none."""
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
