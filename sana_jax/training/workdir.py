"""The folder of one run, on a local disk or a bucket (`gs://...`).

    config.json      what the run is; a second run with another one is refused
    run_id           names its folder in config.checkpoint_cache
    checkpoints/     training state, see checkpoints.py
    metrics.jsonl    one object a log interval, see reporting.py
    loss.png         the loss curve
    pictures/        sample grids
    profile/         traces, see profiler.py
    model/           the trained model, once the run is done
"""

from collections.abc import Collection
import contextlib
import json
import os
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import ml_collections

from sana_jax.errors import UserError


def claim(
    workdir: epath.PathLike, config: ml_collections.ConfigDict,
    free: Collection[str],
) -> epath.Path:
  """The folder, made if need be, with `config` as its config.json.

  Raises UserError if `compare` does.
  """
  workdir = resolve(workdir)
  compare(workdir, config, free)
  meet('config.json is read')  # Before process 0 writes it anew.
  if jax.process_index() == 0:
    text = json.dumps(json.loads(config.to_json()), indent=2) + '\n'
    write_atomically(workdir / 'config.json', text.encode())
  return workdir


def compare(
    workdir: epath.PathLike, config: ml_collections.ConfigDict,
    free: Collection[str],
) -> None:
  """Raises UserError if the folder was made with another config.

  Keys named in `free` (whole sub-configs too) may differ.
  """
  path = resolve(workdir) / 'config.json'
  ours = json.loads(config.to_json())
  try:
    theirs = json.loads(path.read_text()) if path.exists() else ours
  except (OSError, ValueError) as error:
    raise UserError(
        f'{path} cannot be read ({error}); choose another --workdir.'
    ) from error
  if differ := _differences(_flat(theirs), _flat(ours), free):
    raise UserError(
        f'{workdir} holds a run of another config: {"; ".join(differ)}. Choose '
        'another --workdir, or set the config back.')


@contextlib.contextmanager
def writing(path: epath.PathLike):
  """A failure of the disk, as one sentence."""
  try:
    yield
  except OSError as error:
    raise UserError(
        f'Writing {path} failed ({error.strerror or error}); see to space and '
        'permissions there and start again, or choose another --workdir.'
    ) from error


def resolve(workdir: epath.PathLike) -> epath.Path:
  """The folder, absolute if it is local: orbax refuses relative paths."""
  path = os.fspath(workdir)
  return epath.Path(path if '://' in path else os.path.abspath(
    os.path.expanduser(path)))


def write_atomically(path: epath.Path, data: bytes) -> None:
  """Writes all of `data` or leaves what was there; makes the folder."""
  with writing(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    part.write_bytes(data)
    part.replace(path)


def meet(where: str) -> None:
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(where)


def _differences(theirs: Any, ours: Any, free: Collection[str]) -> list[str]:
  missing = object()
  return [
      f'{key} is {theirs.get(key, "absent")!r} there and '
      f'{ours.get(key, "absent")!r} here' for key in sorted({*theirs, *ours})
      if theirs.get(key, missing) != ours.get(key, missing)
      and not any(f'{key}.'.startswith(f'{f}.') for f in free)]


def _flat(tree: Any, path: str = '') -> dict[str, Any]:
  """Nested dicts as one, keys joined by dots; an empty dict is a value."""
  if not isinstance(tree, dict) or not tree:
    return {path: tree}
  join = lambda key: f'{path}.{key}' if path else key
  return {k: v for key, sub in tree.items()
          for k, v in _flat(sub, join(key)).items()}
