"""Fingerprint of the data and models that a cache was made from."""

import hashlib
import json
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

from sana_jax import config as rules
from sana_jax.data import cache, files, sources
from sana_jax.errors import UserError
from sana_jax.keys import CACHE, CACHED_TEXT
from sana_jax.tasks.sana import encoders
from sana_jax.tree import flatten

_WHOLE = 2**26  # Of larger weight files only both ends are hashed.
_END = 2**20


class OtherCache(UserError):
  """The cache was made from other data or other models."""


def of(config: ConfigDict, data_too: bool = True) -> dict[str, Any]:
  """Keys of the config that change a cache, and digests of the models' files.

  `data_too` adds the listing of the files that the source opens, since a run, a
  cache or an index may be among them. `shapes` follow from the config alone.
  """
  out = {'format': 1, **rules.changing(CACHE, config)}
  if data_too and config.data.source != 'shapes':
    found = sources.listing(config.data.source, config.data.path)
    out['files of data.path'] = _digest(
      json.dumps(_moved_along(found), sort_keys=True)
    )
  if config.inputs.latents == 'cached':
    out['autoencoder'] = _of_folder(
      encoders.find(config, 'autoencoder') / 'vae'
    )
  if config.inputs.text == 'cached':
    folder = encoders.find(config, 'text_encoder')
    out['text_encoder'] = _of_folder(folder / 'text_encoder')
    out['tokenizer'] = _of_folder(folder / 'tokenizer')
    out |= rules.changing(CACHED_TEXT, config)
  return out


def read(path: str) -> dict[str, Any]:
  """Fingerprint of the cache in `path`; UserError if it has none."""
  file = f'{path}/{cache.ABOUT}'
  try:
    content = files.read_json(file)
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} holds no cache (its {cache.ABOUT} cannot be read: '
      f'{error}); make one with sana-jax data cache.'
    ) from error
  if not isinstance(content, dict):
    raise UserError(f'{file} holds no JSON object; make the cache again.')
  return content


def compare(path: str, stored: dict[str, Any], current: dict[str, Any]) -> None:
  """Raises OtherCache if the fingerprint `stored` differs from `current`."""
  stored, current = (flatten(x, '.', empty=True) for x in (stored, current))
  differ = [
    f'{key} is {_short(stored.get(key))} there and {_short(value)} here'
    for key, value in current.items()
    if stored.get(key) != value
  ]
  if differ:
    raise OtherCache(
      f'{path} is a cache of something else: {"; ".join(differ)}. Choose '
      'another folder, or set the config back.'
    )


def _moved_along(listing):
  """The listing by names relative to the common folder of the data."""
  start = os.path.commonprefix(list(listing)).rpartition('/')[0]
  return {
    path[len(start) :].lstrip('/'): stat for path, stat in listing.items()
  }


def _of_folder(folder: pathlib.Path) -> str:
  """Digest of a folder's files; for large ones, of their size and both ends."""
  digest = hashlib.sha256()
  for path in sorted(p for p in folder.rglob('*') if p.is_file()):
    digest.update(f'{path.relative_to(folder)} {path.stat().st_size}'.encode())
    with path.open('rb') as file:
      if path.stat().st_size <= _WHOLE:
        digest.update(file.read())
      else:
        digest.update(file.read(_END))
        file.seek(-_END, os.SEEK_END)
        digest.update(file.read())
  return digest.hexdigest()[:16]


def _short(value):
  """Representation of a value, shortened for an error message."""
  text = 'absent' if value is None else repr(value)
  return text if len(text) <= 40 else f'{text[:36]}…{_digest(text)[:6]}'


def _digest(text):
  return hashlib.sha256(text.encode()).hexdigest()[:16]
