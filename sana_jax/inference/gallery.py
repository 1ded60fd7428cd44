"""A folder of pictures, written by threads, that a later run can complete.

A picture's file is written atomically, and then a line about it to
results.jsonl. A picture counts as made when both exist, so that a run killed at
any moment loses at most the pictures in progress.

With shards, the pictures of a shard are collected in `.parts` and packed into
one tar file (WebDataset's layout: NAME.png, NAME.json) when they are complete.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import json
import pathlib
import threading
from typing import Any

import numpy as np
from PIL import Image

from sana_jax import files
from sana_jax.errors import is_out_of_memory, UserError
from sana_jax.inference import existing, images, shards
from sana_jax.inference.batches import Request
from sana_jax.inference.existing import Picture
from sana_jax.inference.names import slug
from sana_jax.printable import printable
from sana_jax.version import __version__

__all__ = ['about', 'Gallery', 'Picture', 'slug']
LIST = 'results.jsonl'
_PARTS = '.parts'
_THREADS = 4
_WAITING = 8  # Batches queued for the disk before the device waits.


def about(
  request: Request, settings: Mapping[str, Any], model: str
) -> dict[str, Any]:
  """Metadata of a picture: its request, settings, model and version."""
  return {
    'prompt': request.prompt,
    'negative_prompt': request.negative_prompt,
    'seed': request.seed,
    'number': request.number,
    'height': request.height,
    'width': request.width,
    **(
      {'control_image': request.control_image} if request.control_image else {}
    ),
    **settings,
    'model': model,
    'version': f'sana_jax {__version__}',
  }


class Gallery:
  """The pictures `wanted` in `folder`; a context manager that waits on exit.

  Args:
    wanted: the pictures of this process, in order.
    name: file name of the list, different in each process.
    shard_size: pictures per tar file; 0 for single files.

  Attributes:
    failed: reason by file of each picture that could not be encoded.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    wanted: Sequence[Picture],
    *,
    name: str = LIST,
    shard_size: int = 0,
    prefix: str = '',
    on_written: Callable = lambda: None,
  ):
    self._folder, self._wanted, self._on_written = folder, wanted, on_written
    self._parts = folder / _PARTS if shard_size else folder
    self._shards = shards.assign([p.file for p in wanted], shard_size, prefix)
    self._list = folder / name
    self._lock = threading.Lock()
    self._places = threading.Semaphore(_WAITING)
    existing.check_places(self._list, self._parts)
    self._existing = existing.ExistingPictures(
      folder, self._parts, sorted(set(self._shards.values()))
    )
    self._made = self._read_list()
    self.failed: dict[str, str] = {}
    self._bad: dict[str, dict[str, Any]] = {}

  def __enter__(self):
    self._parts.mkdir(parents=True, exist_ok=True)
    self._pool = ThreadPoolExecutor(_THREADS)
    self._jobs: list[Future] = []
    self._put_off: list[BaseException] = []
    self._log = self._list.open('ab')
    _end_line(self._log, self._list)
    return self

  def __exit__(self, kind, *_):
    self._pool.shutdown(cancel_futures=kind is not None)
    self._log.close()
    try:
      if kind is None:
        self._raise_failures(wait=True)
        self._finish()
    finally:
      if not self._list.stat().st_size:
        self._list.unlink()

  @property
  def damaged(self) -> list[str]:
    """Names of damaged files, to be made again."""
    return self._existing.damaged

  def missing(self, decoded: int = 0) -> list[Picture]:
    """Pictures that are not made yet.

    Args:
      decoded: number of first pictures to verify by decoding; they are missing
        if that fails.

    Raises:
      UserError: the folder already has a picture of that name with other
        settings, or a folder of that name.
    """
    out = []
    for i, picture in enumerate(self._wanted):
      made = self.made(picture)
      if made is not None:
        self._check_alike(picture, made)
        if i < decoded and self._is_damaged(picture):
          made = None
      if made is None:
        if picture.file in self._existing.loose:
          existing.check_free(self._parts / picture.file)
        out.append(picture)
    return out

  def made(self, picture: Picture) -> Mapping[str, Any] | None:
    """Metadata of a picture, or None if it is not made yet."""
    return self._made.get(picture.file)

  def add(self, pictures: Sequence[Picture], pixels) -> None:
    """Writes a batch in the background; pixels are uint8 [b y x 3].

    Pictures that exist are not rewritten. `pixels` may still be in flight.
    Blocks if the disk is far behind, and raises the errors of earlier writes.
    """
    self._raise_failures()
    self._places.acquire()
    self._jobs.append(self._pool.submit(self._write, pictures, pixels))

  def mark_bad(self, pictures: Sequence[Picture], reason: str) -> None:
    """Lists pictures that are not written, with the reason."""
    with self._lock:
      for picture in pictures:
        self._bad[picture.file] = {**picture.about, 'bad': reason}
        self._log.write(_line(picture.file, self._bad[picture.file]))
      self._log.flush()

  def open(self, picture: Picture) -> Image.Image:
    """Reads a picture.

    Raises:
      UserError: it is damaged.
    """
    shard = self._existing.inside.get(picture.file)
    path = self._parts / picture.file
    try:
      data = (
        shards.read(self._folder / shard, picture.file)
        if shard
        else files.read_bytes(path, shards.MOST_BYTES)
      )
      return images.decode(data, path.suffix)
    except (OSError, ValueError) as e:
      raise UserError(
        f'{self._folder / shard if shard else path} is damaged ('
        f'{printable(e, 200)}); the same command makes it again.',
        key='--out',
        value=path,
      ) from e

  def _is_damaged(self, picture):
    try:
      self.open(picture)
      return False
    except UserError:
      self._existing.drop(picture.file)
      del self._made[picture.file]
      return True

  def _check_alike(self, picture, made):
    requested = picture.about
    changed = sorted(
      k
      for k in {*made, *requested} - {'version', *picture.found}
      if made.get(k) != requested.get(k)
    )
    if changed:
      key, shown = changed[0], lambda value: printable(repr(value), 100)
      raise UserError(
        f'{self._folder} holds {picture.file} already, made with '
        f'{printable(key, 60)}={shown(made.get(key))} and not '
        f'{shown(requested.get(key))}; choose another --out, or remove that '
        'folder.',
        key=key,
        value=requested.get(key),
        allowed=[made.get(key)],
      )

  def _write(self, pictures, pixels):
    try:
      for picture, image in zip(pictures, np.asarray(pixels)):
        if picture.file in self._made:
          continue
        suffix = pathlib.PurePath(picture.file).suffix
        try:
          data = images.encode(image, suffix, picture.about)
        except Exception as e:  # Pillow's encoders raise errors of any type.
          self.failed[picture.file] = f'it cannot be encoded ({e}).'
          continue
        files.write_quickly(self._parts / picture.file, data)
        with self._lock:
          self._made[picture.file] = dict(picture.about)
          self._log.write(_line(picture.file, picture.about))
          self._log.flush()
        self._on_written()
    finally:
      self._places.release()

  def _raise_failures(self, wait=False):
    """Raises errors of finished jobs; out-of-memory errors only at the end."""
    done = [job for job in self._jobs if wait or job.done()]
    self._jobs = [job for job in self._jobs if job not in done]
    for error in filter(None, [job.exception() for job in done]):
      if not is_out_of_memory(str(error)):
        raise error
      self._put_off.append(error)
    if wait and self._put_off:
      raise self._put_off[0]

  def _read_list(self):
    """Lines of earlier runs whose picture exists."""
    lines = {}
    wanted = {p.file: p for p in self._wanted}
    for line in existing.read_list(self._list):
      file = line.pop('file', None)
      if 'bad' in line:
        continue
      if isinstance(file, str) and (
        file not in wanted or existing.describes(line, wanted[file])
      ):
        lines[file] = line
    return {
      file: line for file, line in lines.items() if self._existing.holds(file)
    }

  def _finish(self):
    """Packs complete shards, and rewrites the list in order, deduplicated."""
    by_shard = {}
    for file, shard in self._shards.items():
      by_shard.setdefault(shard, []).append(file)
    there = set(self._existing.inside.values())
    for shard, names in by_shard.items():
      self._pack(shard, names, add=shard in there)
    if self._parts != self._folder and not any(self._parts.iterdir()):
      self._parts.rmdir()
    order = [p.file for p in self._wanted if p.file in self._made]
    others = sorted(set(self._made) - set(order))
    files.write_bytes(
      self._list,
      b''.join(
        _line(file, (self._made | self._bad)[file])
        for file in [*order, *others, *self._bad]
      ),
    )

  def _pack(self, shard, names, add):
    """Packs the loose pictures of a shard, once all are made or failed."""
    inside, path = self._existing.inside, self._folder / shard
    for file in names:  # Packed but not removed by a killed run.
      if file in inside and file in self._existing.loose:
        (self._parts / file).unlink(missing_ok=True)
    fresh = [f for f in names if f in self._made and f not in inside]
    if fresh and all(f in self._made or f in self.failed for f in names):
      shards.pack(path, self._parts, fresh, self._made, add)
      inside |= dict.fromkeys(fresh, shard)


def _line(file, about) -> bytes:
  return (
    json.dumps({'file': file, **about}, ensure_ascii=False) + '\n'
  ).encode()


def _end_line(log, path) -> None:
  """Ends a line that a killed run may have left incomplete."""
  if size := path.stat().st_size:
    with files.open_regular(path) as file:
      file.seek(size - 1)
      if file.read() != b'\n':
        log.write(b'\n')
