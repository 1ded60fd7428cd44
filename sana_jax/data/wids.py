"""The official WebDataset layout: a list of shards, and JSON sidecars.

`wids-meta.json` lists shards and their numbers of samples. Next to `0001.tar`,
any `0001{suffix}.json` contains more captions, {key: {name: text}}, or CLIP
scores, {key: {name: number}}. Official configs name the suffixes; here all are
used.
"""

from collections.abc import Iterable
import json
import posixpath
import re
from typing import Any

from absl import logging
import numpy as np

from sana_jax.data import facts, files
from sana_jax.data.array_cache import FAILED_READS
from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.printable import printable

META = 'wids-meta.json'


def shard_list(path: str) -> dict[str, int]:
  """Numbers of samples by shard, of a wids-meta.json with relative paths."""
  try:
    content = files.read_json(path)
    parts = [content, *content.get('datasets', [])]
    shards = [
      (str(shard['url']), int(shard['nsamples']))
      for part in parts
      for shard in part.get('shardlist', [])
    ]
  except (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
  ) as error:
    raise UserError(
      f'{path} is not a list of shards ({type(error).__name__}: {error}); it '
      "must have a 'shardlist' of objects with 'url' and 'nsamples'.",
      key='shardlist',
      value=path,
      allowed=('url', 'nsamples'),
    ) from error
  if not shards:
    raise UserError(
      f"{path} lists no shards; fill its 'shardlist'.",
      key='shardlist',
      value=[],
      allowed='1 shard or more',
    )
  base = posixpath.dirname(path)
  for url, _ in shards:
    if files.is_remote(url) and _place(url) != _place(path):
      raise UserError(
        f'{path} lists {printable(url, 200)}, which is in another place; name '
        'shards relative to the list.',
        key='shardlist',
        value=url,
        allowed='relative names',
      )
  return {
    url if files.is_remote(url) else posixpath.join(base, url): count
    for url, count in shards
  }


def _place(url):
  """Protocol and bucket; a list may not cause requests to others."""
  return url.split('/')[:3] if files.is_remote(url) else None


def sidecars(names: Iterable[str]) -> dict[str, list[str]]:
  """JSON files of one folder, by the shard to which they belong.

  `1_a_clip_score.json` belongs to `1_a.tar` if there is one, else to `1.tar`.
  """
  names = sorted(names)
  out = {name: [] for name in names if name.endswith('.tar')}
  for name in names:
    stem = name.removesuffix('.json')
    if stem == name or name == META:
      continue
    ends = [len(stem), *(m.start() for m in re.finditer('[_.-]', stem))]
    owner = next(
      (
        shard
        for end in sorted(ends, reverse=True)
        if (shard := f'{stem[:end]}.tar') in out
      ),
      None,
    )
    if owner:
      out[owner].append(name)
  return out


def read_sidecars(paths: list[str], keys: list[str]) -> dict[str, np.ndarray]:
  """Additional captions and scores of the samples `keys`, as columns.

  `more` is the concatenated JSON of {'captions', 'scores'} of all samples, with
  offsets `more_at`; `more_scores` are the scores that filters compare;
  FAILED_READS is the number of files that could not be read.
  """
  merged: dict[str, dict[str, Any]] = {}
  failures = 0
  for path in paths:
    content, failed = _content(path)
    failures += failed
    for key, named in content.items():
      if isinstance(named, dict):
        merged.setdefault(str(key), {}).update(_merged(named, merged.get(key)))
  texts = [
    json.dumps(merged[key]).encode() if key in merged else b'' for key in keys
  ]
  scores = [
    facts.filter_score(merged.get(key, {}).get('scores', {})) for key in keys
  ]
  return {
    'more': np.frombuffer(b''.join(texts), np.uint8),
    'more_at': np.cumsum([0, *map(len, texts)]),
    'more_scores': np.asarray(scores, np.float32),
    FAILED_READS: failures,
  }


def _merged(named, before):
  """Adds texts to the captions and numbers to the scores of a sample."""
  before = before or {}
  numbers = facts.numbers(named)
  texts = {
    name: text
    for name, text in facts.usable(named).items()
    if name not in numbers
  }
  return {
    'captions': before.get('captions', {}) | texts,
    'scores': before.get('scores', {}) | numbers,
  }


def _content(path):
  """(the JSON object, whether reading it failed)."""
  try:
    # Half a surrogate pair in one text must not discard the entire file.
    content = parse_json(files.read(path), halves=True)
  except (OSError, ValueError) as error:
    logging.warning('%s is skipped: %s', path, error)
    return {}, isinstance(error, OSError)
  return content if isinstance(content, dict) else {}, False
