"""Disk cache of plans, keyed by the content of their inputs."""

import functools
import hashlib
import json
import pathlib
from typing import Any
import zlib

from ml_collections import ConfigDict

import sana_jax
from sana_jax import config as rules
from sana_jax import files, kernels
from sana_jax.errors import UserError
from sana_jax.keys import PROGRAM
from sana_jax.registry import SHIPPED
from sana_jax.tools.plan.imports import imported_files
from sana_jax.tools.report import versions

_COMPILERS = ('jax', 'jaxlib', 'libtpu', 'jax-cuda13-plugin', 'flax', 'optax')
FOLDER = '~/.cache/sana_jax/plans'


def key(request: dict[str, Any]) -> str:
  """Key of a request, from its config, the compilers and the sources."""
  config = rules.changing(PROGRAM, ConfigDict(request['config']))
  facts = request | dict(
    config=config, sources=sources(), compilers=compilers()
  )
  del facts['layout']  # A name; its content is in the config.
  text = json.dumps(facts, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:24]


def read(folder: pathlib.Path, name: str) -> dict[str, Any] | None:
  """Facts stored under a key; None if missing or corrupt."""
  try:
    found = files.read_json(folder / f'{name}.json')
  except (FileNotFoundError, UserError):
    return None
  facts = found.get('facts')
  return facts if facts and found.get('checksum') == _checksum(facts) else None


def write(folder: pathlib.Path, name: str, facts: dict[str, Any]) -> None:
  """Writes facts atomically, with a checksum."""
  folder.mkdir(parents=True, exist_ok=True)
  files.write_text(
    folder / f'{name}.json',
    json.dumps({'checksum': _checksum(facts), 'facts': facts}),
  )


def _checksum(facts):
  return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


@functools.cache
def sources() -> str:
  """Digest of the source files that determine a plan."""
  digest = hashlib.sha256()
  for root, path in source_files():
    digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
  return digest.hexdigest()


def source_files() -> list[tuple[pathlib.Path, pathlib.Path]]:
  """(root, file) of all that compiling a plan imports or reads.

  Kernels and tasks are imported by name on use; chip descriptions are data.
  """
  root, of_kernels = (
    pathlib.Path(package.__file__).parent for package in (sana_jax, kernels)
  )
  data = [*of_kernels.glob('**/*.*'), *root.glob('analysis/*.txtpb')]
  modules = [
    'tools.plan.worker',
    *(name.removeprefix('sana_jax.') for name in SHIPPED.values()),
  ]
  imported = set().union(*(imported_files(root, name) for name in modules))
  return sorted(
    [(root, path) for path in imported]
    + [
      (root if path.is_relative_to(root) else of_kernels, path)
      for path in data
      if path.suffix in ('.py', '.txtpb', '.json')
    ]
  )


@functools.cache
def compilers() -> dict[str, str]:
  """Versions of JAX and its compilers."""
  return versions(*_COMPILERS)
