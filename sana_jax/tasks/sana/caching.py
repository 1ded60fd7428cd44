"""Writes a cache of latents and text; see data/cache.py for its format.

Shards are distributed over the processes; each encodes its own on all of its
devices and writes them atomically, so that encoding can be stopped at any
moment and resumed on any number of processes.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import itertools
import json
import os
import types
from typing import Any

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from sana_jax import locks
from sana_jax.data import cache, files
from sana_jax.data.columns import Columns
from sana_jax.data.images import in_threads
from sana_jax.data.sources import DescribedSource
from sana_jax.errors import TransientError, UserError
from sana_jax.printable import counted
from sana_jax.tasks import common
from sana_jax.tasks.sana import fingerprints
from sana_jax.tasks.sana.shards import ahead, ShardEncoder
from sana_jax.training import dataset_check
from sana_jax.training.workdir import all_gather, barrier, writing

_READERS = 8  # Threads; decoding and network I/O release the GIL.
SHARD_RECORDS, BATCH_SIZE = 1024, 64


def make(
  config: ConfigDict,
  out: str | os.PathLike,
  *,
  shard_records: int = SHARD_RECORDS,
  batch_size: int = BATCH_SIZE,
  source: Callable[[ConfigDict], DescribedSource] = common.open_inputs,
  about: Mapping[str, Any] = types.MappingProxyType({}),
) -> dict[str, Any]:
  """Completes the cache of a config in `out`, unless it is complete.

  Args:
    shard_records: records per file; ignored for a cache that exists.
    batch_size: images, or captions, at a time on all devices of a process.
    source: opens the records.
    about: what distinguishes them from those of another source.

  Returns its about.json. Raises UserError if `out` holds a cache of other data
  or models, and if reading or writing fails.
  """
  if 'cached' not in (config.inputs.latents, config.inputs.text):
    raise UserError(
      "config.inputs.latents and config.inputs.text are 'online':"
      " there is nothing to cache; set one of them to 'cached'.",
      key='inputs.latents',
      value='online',
      allowed=('cached',),
    )
  out = os.fspath(out).rstrip('/')
  source, wanted = source(config), fingerprints.of(config) | dict(about)
  dataset_check.check_processes(dataset_check.Records(len(source)))
  if there := _done(config, out, len(source), wanted):
    return there  # A complete cache is only read.
  with locks.hold(
    locks.within(out), 'encoding a cache', '--out', shared=True
  ) as lock:
    there = _begin(out, len(source), shard_records, wanted)
    if _done(config, out, len(source), wanted):
      return there  # Another run completed it in the meantime.
    names = _encode(
      config, out, source, there['shard_records'], batch_size, lock
    )
    barrier('every shard is encoded')
    lock.check_together()
    if jax.process_index() == 0:
      _finish(config, out, names)
    barrier('the cache is complete')
  return there


def _done(config, out, records, wanted) -> dict[str, Any] | None:
  """about.json of a complete cache; UserError if it is of something else."""
  there = _there(out, records, wanted)
  # One process decides for all.
  finished = jax.process_index() == 0 and there and _finished(config, out)
  return there if all_gather([bool(finished)])[0, 0] else None


def _there(out, records, wanted) -> dict[str, Any] | None:
  """about.json, if it exists; UserError if it is of something else."""
  if not files.exists(f'{out}/{cache.ABOUT}'):
    return None
  there = fingerprints.read(out)
  fingerprints.compare(out, there, wanted)
  if there.get('records', records) != records:
    raise TransientError(
      f'{out} was started with {counted(there["records"], "record")} and '
      f'config.data.path has {records:,} usable ones now; check that all of it '
      'can be read, or choose another folder.',
      key='--out',
      value=records,
      allowed=(there['records'],),
    )
  return there


def _begin(out, records, shard_records, wanted) -> dict[str, Any]:
  """about.json, written unless it exists."""
  there = _there(out, records, wanted)
  if there is None and files.expand(f'{out}/*.safetensors'):
    raise UserError(
      f'{out} holds shards, but no {cache.ABOUT} that describes '
      'them; remove them or choose another folder.',
      key='--out',
      value=out,
      allowed=(cache.ABOUT,),
    )
  barrier('about.json is read')
  if there is None:
    there = {
      **wanted,
      'records': records,
      'shard_records': shard_records,
    }
    if jax.process_index() == 0:
      with writing(out):
        files.write(
          f'{out}/{cache.ABOUT}', (json.dumps(there, indent=2) + '\n').encode()
        )
  barrier('about.json is written')
  return there


def _encode(config, out, source, shard_records, batch_size, lock) -> list[str]:
  """Writes the missing shards of this process; returns the names of all."""
  spans = {
    cache.shard_name(i): range(start, min(start + shard_records, len(source)))
    for i, start in enumerate(range(0, len(source), shard_records))
  }
  mine = list(spans)[jax.process_index() :: jax.process_count()]
  complete = _complete(out, mine)
  missing = [shard for shard in mine if shard not in complete]
  if missing:
    done = sum(len(spans[shard]) for shard in mine if shard not in missing)
    total = sum(len(spans[shard]) for shard in mine)
    with tqdm(
      desc='encoding', total=total, initial=done, unit='image', disable=None
    ) as bar:
      work = ShardEncoder.from_config(config, source, batch_size)
      for shard, packed in _packed(work, missing, spans, bar):
        lock.check()
        with writing(out):
          files.write(f'{out}/{shard}', packed)
  return list(spans)


def _packed(work, shards, spans, bar) -> Iterator[tuple[str, bytes]]:
  """Each shard's name and file; records are read ahead across shards."""
  places = [(shard, i) for shard in shards for i in spans[shard]]
  with futures.ThreadPoolExecutor(_READERS) as pool:
    records = ahead(
      pool,
      lambda place: (place[0], work.read(place[1])),
      places,
      2 * work.batch_size,
    )

    def counted(group):
      for _, record in group:
        yield record
        bar.update()

    for shard, group in itertools.groupby(records, key=lambda x: x[0]):
      yield shard, work.shard(counted(group))


def _finished(config, out) -> bool:
  """Whether the files that are written last exist undamaged."""
  columns = Columns(out)
  try:
    cache.read_index(columns)
    if config.inputs.text == 'cached':
      cache.read_null(columns)
  except cache.DAMAGED:
    return False
  return True


def _finish(config, out, shards) -> None:
  """Writes the empty prompt's text and then the index."""
  with writing(out):
    if config.inputs.text == 'cached':
      files.write(
        f'{out}/{cache.NULL}', cache.pack_null(ShardEncoder.null_text(config))
      )
    files.write(f'{out}/{cache.INDEX}', cache.pack_index(Columns(out), shards))


def _complete(out, shards) -> set[str]:
  """Shards whose files exist and are not truncated, by their headers."""
  columns, there = Columns(out), files.list_recursively(out)

  def is_complete(shard):
    try:
      return columns.length(shard) == there[shard][0]
    except cache.DAMAGED:
      return False

  begun = [shard for shard in shards if shard in there]
  return set(itertools.compress(begun, in_threads(is_complete, begun)))
