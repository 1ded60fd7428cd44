"""Fingerprint of the data and models that a cache was made from."""

import hashlib
import json
import os
import pathlib
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from sana_jax import config as rules
from sana_jax.data import cache, files, sources
from sana_jax.errors import UserError
from sana_jax.keys import CACHE, CACHED_TEXT
from sana_jax.tasks.sana import encoders
from sana_jax.tree import flatten

_WHOLE = 2**26  # Of larger weight files only both ends are hashed.
_END = 2**20


_FILES = 'files of data.path'
_NAMES = 'names and sizes in data.path'  # Older caches have no digest of these.


class OtherCache(UserError):
  """The cache was made from other data or other models."""


def of(config: ConfigDict) -> dict[str, Any]:
  """Keys of the config that change a cache, and digests of data and models."""
  return _of_data(config) | _of_models(config)


def compare_given(path: str, config: ConfigDict) -> None:
  """Raises OtherCache unless a config can be trained from the cache in `path`.

  The data are compared if they can be listed, by names and sizes: copies have
  other times.
  """
  stored, current = read(path), _of_models(config)
  try:
    current |= _of_data(config)
  except UserError as error:
    logging.warning(
      '%s is used without a comparison with the data: %s', path, error
    )
  same_names = _NAMES in stored and stored[_NAMES] == current.get(_NAMES)
  if same_names and current.pop(_FILES) != stored.get(_FILES):
    logging.warning(
      'Files of %s have other times than when the cache %s was made, and the '
      'same names and sizes; make the cache again if they were edited.',
      config.data.path,
      path,
    )
  compare(path, stored, current)


def _of_data(config):
  """Digests of the listing of the files that the source opens.

  A run, a cache or an index may be among others. `shapes` follow from the
  config alone.
  """
  if config.data.source == 'shapes':
    return {}
  data = config.data
  found = _moved_along(
    sources.listing(data.source, data.path, data.instance_prompt)
  )
  if not found:
    raise UserError(
      f'{config.data.path} has no file that is read; correct the data path.',
      key='data.path',
      value=config.data.path,
      allowed=f'files of the source {config.data.source}',
    )
  sizes = {name: size for name, (size, _) in found.items()}
  digest = lambda value: _digest(json.dumps(value, sort_keys=True))
  return {_FILES: digest(found), _NAMES: digest(sizes)}


def _of_models(config):
  """Keys of the config, and digests of the models' files."""
  out = {'format': 1, **rules.changing(CACHE, config)}
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
      f'{error}); make one with sana-jax data cache.',
      key='inputs.cache',
      value=path,
      allowed=(cache.ABOUT,),
    ) from error
  if not isinstance(content, dict):
    raise UserError(
      f'{file} holds no JSON object; make the cache again.',
      key='inputs.cache',
      value=file,
      allowed=(dict,),
    )
  return content


def compare(path: str, stored: dict[str, Any], current: dict[str, Any]) -> None:
  """Raises OtherCache if the fingerprint `stored` differs from `current`.

  A key that is newer than the cache had its default.
  """
  stored, current = (flatten(x, '.', empty=True) for x in (stored, current))
  keys = rules.table(None)
  stored = {k: keys[k].default for k in current if k in keys} | stored
  differ = [
    f'{key} is {_short(stored.get(key))} there and {_short(value)} here'
    for key, value in current.items()
    if stored.get(key) != value and not (key == _NAMES and key not in stored)
  ]
  if differ:
    raise OtherCache(
      f'{path} is a cache of something else: {"; ".join(differ)}. Choose '
      'another folder, or set the config back.',
      key='inputs.cache',
      value=path,
      allowed='a cache of the same data and models',
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
