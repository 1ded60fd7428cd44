"""What a cache was made of: it serves no other data and no other models."""

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

_WHOLE = 2**26  # Larger files of weights are known by their ends.
_END = 2**20


class OtherCache(UserError):
  """What is there was made of other data or other models."""


def of(config: ConfigDict, data_too: bool = True) -> dict[str, Any]:
  """Keys of the config that change a cache, and digests of models' files.

  `data_too` adds the listing of the files that the source opens: a run, a cache
  or an index may lie among them. `shapes` follow from the config alone.
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
  """What the cache in `path` was made of; UserError if it does not tell."""
  file = f'{path}/{cache.ABOUT}'
  try:
    content = files.read_json(file)
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} holds no cache (its {cache.ABOUT} cannot be read: '
      f'{error}); make one with sana-jax data cache.'
    ) from error
  if not isinstance(content, dict):
    raise UserError(f'{file} holds no JSON object; make the cache anew.')
  return content


def compare(path: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
  """Raises OtherCache if it was made of something else than `ours`."""
  theirs, ours = (flatten(x, '.', empty=True) for x in (theirs, ours))
  differ = [
    f'{key} is {_said(theirs.get(key))} there and {_said(value)} here'
    for key, value in ours.items()
    if theirs.get(key) != value
  ]
  if differ:
    raise OtherCache(
      f'{path} is a cache of something else: {"; ".join(differ)}. Choose '
      'another folder, or set the config back.'
    )


def _moved_along(listing):
  """By names that stay the same wherever the data lies."""
  start = os.path.commonprefix(list(listing)).rpartition('/')[0]
  return {
    path[len(start) :].lstrip('/'): stat for path, stat in listing.items()
  }


def _of_folder(folder: pathlib.Path) -> str:
  """Of its files; of large ones, their size and both ends."""
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


def _said(value):
  """Short enough for a sentence."""
  text = 'absent' if value is None else repr(value)
  return text if len(text) <= 40 else f'{text[:36]}…{_digest(text)[:6]}'


def _digest(text):
  return hashlib.sha256(text.encode()).hexdigest()[:16]
