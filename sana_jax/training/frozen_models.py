"""Checks that a resumed run has the frozen models that it began with.

A frozen model, such as the teacher of a distillation, is not in checkpoints.
The workdir records its name and a checksum of its weights.
"""

from collections.abc import Mapping
import json
import zlib

from absl import logging
from etils import epath
import jax

from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.printable import printable
from sana_jax.training import checkpoint_files
from sana_jax.training.checksums import checksums
from sana_jax.training.workdir import barrier, read_state, write_atomically
from sana_jax.typing import PyTree

FILE = 'frozen.json'


def check(
  workdir: epath.Path,
  models: Mapping[str, tuple[str, str]],
  frozen: Mapping[str, PyTree],
) -> None:
  """Raises UserError for another model than before; records the first.

  The arguments are `models` and `frozen` of a Task.
  """
  if not models:
    return
  path = workdir / FILE
  current = {
    key: {'name': name, 'checksum': checksum(frozen[part])}
    for part, (key, name) in models.items()
  }
  before = _recorded(path)
  barrier('frozen.json is read')
  for key, model in current.items():
    other = before.get(key, model)
    if other['checksum'] != model['checksum']:
      raise UserError(
        f'config.{key} is {model["name"]!r} (checksum {model["checksum"]}), '
        f'and the run in {workdir} began with {other["name"]!r} (checksum '
        f'{other["checksum"]}); name that one, or choose another --workdir.',
        key=key,
        value=model['name'],
        allowed=(other['name'],),
      )
  if jax.process_index() == 0:
    write_atomically(path, json.dumps(current | before).encode())


def checksum(params: PyTree) -> int:
  """One checksum of all leaves and their names, for any sharding."""
  names = checkpoint_files.names(params)
  sums = list(zip(names, checksums(params).tolist(), strict=True))
  return zlib.crc32(json.dumps(sums).encode())


def _recorded(path):
  """Models by key that the run began with; {} for a new or damaged file."""
  content = read_state(path)
  if content is None:
    return {}
  try:
    found = parse_json(content)
    return {
      key: {'name': printable(x['name'], 200), 'checksum': int(x['checksum'])}
      for key, x in found.items()
    }
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    logging.warning(
      '%s is damaged (%s): whether the run began with the same models is '
      'unknown.',
      path,
      error,
    )
    return {}
