"""Plans on disk, by the content of all that they follow from."""

import functools
import hashlib
import importlib.metadata
import json
import pathlib
from typing import Any
import zlib

import sana_jax
from sana_jax import files, kernels
from sana_jax.errors import UserError

FOLDER = '~/.cache/sana_jax/plans'
# What no program depends on.
_FREE = ('data', 'pictures_every_steps', 'seed', 'log_every_steps',
         'checkpoint_every_steps', 'keep_checkpoints', 'watch', 'autoencoder',
         'text_encoder', 'max_skipped_in_a_row', 'max_skipped_fraction')
# Files that a program, or what is read from it, follows from.
_SOURCES = (
  'models/*.py', 'optim/*.py', 'diffusion/**/*.py', 'inference/denoising.py',
  'sharding/*', 'training/optimizers.py', 'training/state.py',
  'training/step.py', 'training/norms.py', 'objectives/*.py',
  'tasks/*.py', 'tasks/sana/task.py',
  'benchmark/flops.py',
  *(f'planning/{name}.py' for name in (
    'buffers', 'collectives', 'compiling', 'hlo', 'steps', 'work')))


def key(request: dict[str, Any]) -> str:
  """Of a request: another config, compiler or source has another one."""
  config = {k: v for k, v in request['config'].items() if k not in _FREE}
  data = request['config'].get('data', {})
  config['data'] = [data.get(key) for key in ('size_px', 'source')]
  facts = request | {'config': config, 'sources': sources(),
                     'compilers': compilers()}
  del facts['layout']  # A name; what it says is in the config.
  return hashlib.sha256(
    json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def read(folder: pathlib.Path, name: str) -> dict[str, Any] | None:
  """What was written under a key; None if nothing, or nothing whole, was."""
  try:
    found = files.read_json(folder / f'{name}.json')
  except (FileNotFoundError, UserError):
    return None
  facts = found.get('facts')
  return facts if facts and found.get('checksum') == _checksum(facts) else None


def write(folder: pathlib.Path, name: str, facts: dict[str, Any]) -> None:
  """All of it or nothing, with a checksum."""
  folder.mkdir(parents=True, exist_ok=True)
  files.write_text(folder / f'{name}.json', json.dumps(
    {'checksum': _checksum(facts), 'facts': facts}))


def _checksum(facts):
  return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


@functools.cache
def sources() -> str:
  """A digest of the package's files and its kernels'."""
  digest = hashlib.sha256()
  for package, kinds in ((sana_jax, _SOURCES), (kernels, ('**/*.*',))):
    root = pathlib.Path(package.__file__).parent
    for path in sorted(p for kind in kinds for p in root.glob(kind)
                       if p.suffix in ('.py', '.txtpb', '.json')):
      digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
  return digest.hexdigest()


@functools.cache
def compilers() -> dict[str, str]:
  """Versions of JAX and of what compiles."""
  found = {}
  for name in ('jax', 'jaxlib', 'libtpu', 'jax-cuda13-plugin', 'flax', 'optax'):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
