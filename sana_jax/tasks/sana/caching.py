"""Makes a cache of latents and text: see data/cache.py for what it holds.

Shards are shared out among the processes; each encodes its own on all of its
devices and writes them whole, so that a run that is stopped at any moment goes
on where it was, on any number of processes.
"""

from collections.abc import Iterator
from concurrent import futures
import itertools
import json
import os
from typing import Any

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from sana_jax import locks
from sana_jax.data import cache, files
from sana_jax.data.columns import Columns
from sana_jax.data.images import in_threads
from sana_jax.errors import Trouble, UserError
from sana_jax.tasks import common
from sana_jax.tasks.sana import fingerprints
from sana_jax.tasks.sana.shards import ahead, Work
from sana_jax.training import dataset_check
from sana_jax.training.workdir import all_gather, barrier, writing

_READERS = 8  # Threads; decoding and the network leave Python's lock.
SHARD_RECORDS, BATCH_SIZE = 1024, 64


def make(
  config: ConfigDict,
  out: str | os.PathLike,
  *,
  shard_records: int = SHARD_RECORDS,
  batch_size: int = BATCH_SIZE,
) -> dict[str, Any]:
  """Finishes the cache of a config in `out`, or finds it finished.

  Args:
    shard_records: in a file; of a cache that was begun, its own counts.
    batch_size: images, or captions, at a time on all devices of a process.

  Returns its about.json. Raises UserError where `out` holds a cache of other
  data or models, and for what cannot be read or written.
  """
  if 'cached' not in (config.inputs.latents, config.inputs.text):
    raise UserError(
      "config.inputs.latents and config.inputs.text are 'online':"
      " there is nothing to cache; set one of them to 'cached'."
    )
  out = os.fspath(out).rstrip('/')
  source = common.open_inputs(config)
  dataset_check.check_processes(dataset_check.Records(len(source)))
  if about := _done(config, out, len(source)):
    return about  # Which is read only.
  with locks.hold(
    locks.within(out), 'encoding a cache', '--out', shared=True
  ) as lock:
    about = _begin(config, out, len(source), shard_records)
    if _done(config, out, len(source)):
      return about  # By another run, meanwhile.
    names = _encode(
      config, out, source, about['shard_records'], batch_size, lock
    )
    barrier('every shard is encoded')
    lock.check_together()
    if jax.process_index() == 0:
      _finish(config, out, names)
    barrier('the cache is whole')
  return about


def _done(config, out, records) -> dict[str, Any] | None:
  """about.json of a cache that is finished; UserError if it is another."""
  there = _there(config, out, records)
  # One process decides for all: the others meet it.
  finished = jax.process_index() == 0 and there and _finished(config, out)
  return there if all_gather([bool(finished)])[0, 0] else None


def _there(config, out, records) -> dict[str, Any] | None:
  """about.json, if it is there; UserError if it is of something else."""
  if not files.exists(f'{out}/{cache.ABOUT}'):
    return None
  there = fingerprints.read(out)
  fingerprints.compare(out, there, fingerprints.of(config))
  if there.get('records', records) != records:
    raise Trouble(
      f'{out} was begun with {there["records"]} records and '
      f'config.data.path has {records} usable ones now; see that all of it '
      'can be read, or choose another folder.'
    )
  return there


def _begin(config, out, records, shard_records) -> dict[str, Any]:
  """about.json, as it is there or made."""
  there = _there(config, out, records)
  if there is None and files.expand(f'{out}/*.safetensors'):
    raise UserError(
      f'{out} holds shards, but no {cache.ABOUT} that tells of '
      'what; remove them or choose another folder.'
    )
  barrier('about.json is read')
  if there is None:
    there = {
      **fingerprints.of(config),
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
  """Writes the shards of this process that are missing; the names of all."""
  spans = {
    cache.shard_name(i): range(start, min(start + shard_records, len(source)))
    for i, start in enumerate(range(0, len(source), shard_records))
  }
  mine = list(spans)[jax.process_index() :: jax.process_count()]
  whole = _whole(out, mine)
  missing = [shard for shard in mine if shard not in whole]
  if missing:
    done = sum(len(spans[shard]) for shard in mine if shard not in missing)
    total = sum(len(spans[shard]) for shard in mine)
    with tqdm(
      desc='encoding', total=total, initial=done, unit='image', disable=None
    ) as bar:
      work = Work.of(config, source, batch_size)
      for shard, packed in _packed(work, missing, spans, bar):
        lock.check()
        with writing(out):
          files.write(f'{out}/{shard}', packed)
  return list(spans)


def _packed(work, shards, spans, bar) -> Iterator[tuple[str, bytes]]:
  """Each shard's file; records are read ahead, also of the next shard."""
  places = [(shard, i) for shard in shards for i in spans[shard]]
  with futures.ThreadPoolExecutor(_READERS) as pool:
    records = ahead(
      pool,
      lambda place: (place[0], work.read(place[1])),
      places,
      2 * work.batch_size,
    )

    def told(group):
      for _, record in group:
        yield record
        bar.update()

    for shard, group in itertools.groupby(records, key=lambda x: x[0]):
      yield shard, work.shard(told(group))


def _finished(config, out) -> bool:
  """Whether what is written last is there and undamaged."""
  columns = Columns(out)
  try:
    cache.read_index(columns)
    if config.inputs.text == 'cached':
      cache.read_null(columns)
  except cache.DAMAGED:
    return False
  return True


def _finish(config, out, shards) -> None:
  """The empty prompt's text, and the index, last."""
  with writing(out):
    if config.inputs.text == 'cached':
      files.write(
        f'{out}/{cache.NULL}', cache.pack_null(Work.null_text(config))
      )
    files.write(f'{out}/{cache.INDEX}', cache.pack_index(Columns(out), shards))


def _whole(out, shards) -> set[str]:
  """Those whose files are there and not cut short, by their headers."""
  columns, there = Columns(out), files.beneath(out)

  def whole(shard):
    try:
      return columns.length(shard) == there[shard][0]
    except cache.DAMAGED:
      return False

  begun = [shard for shard in shards if shard in there]
  return set(itertools.compress(begun, in_threads(whole, begun)))
