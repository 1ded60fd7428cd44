"""A folder of pictures, filled by threads, that a later run completes.

A picture's file appears whole or not at all; then a line about it goes to
results.jsonl. A picture counts as made when both are there, so that a run
killed at any moment loses at most what it was working on.

With shards, the pictures of a shard wait in `.parts`, and become one tar file
(WebDataset's layout: NAME.png, NAME.json) when they are complete.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import io
import json
import pathlib
import re
import tarfile
import threading
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sana_jax.errors import UserError
from sana_jax.inference import images
from sana_jax.inference.batches import Request
from sana_jax.version import __version__

LIST = 'results.jsonl'
_PARTS = '.parts'
_THREADS = 4
_WAITING = 8  # Batches that may wait for the disk before the device does.


class Picture(NamedTuple):
  """One file to make, and all that decides its pixels.

  `found` names what is known of it only when it is made, such as its score.
  """

  file: str
  about: Mapping[str, Any]
  found: tuple[str, ...] = ()


def about(
  request: Request, settings: Mapping[str, Any], model: str
) -> dict[str, Any]:
  """What a picture's file says of how it was made."""
  return {
    'prompt': request.prompt, 'negative_prompt': request.negative_prompt,
    'seed': request.seed, 'number': request.number, 'height': request.height,
    'width': request.width, **settings, 'model': model,
    'version': f'sana_jax {__version__}'}


def slug(prompt: str) -> str:
  """The prompt's beginning as part of a file name."""
  return re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:48] or 'prompt'


class Gallery:
  """The pictures `wanted` in `folder`; a context manager that waits.

  Args:
    wanted: of this process, in order.
    name: of the list, different in each process.
    shard_size: pictures of a tar file; 0 for single files.
  """

  def __init__(
    self, folder: pathlib.Path, wanted: Sequence[Picture], *, name: str = LIST,
    shard_size: int = 0, prefix: str = '', on_written: Callable = lambda: None,
  ):
    self._folder, self._wanted, self._on_written = folder, wanted, on_written
    self._parts = folder / _PARTS if shard_size else folder
    self._shards = _shards(wanted, shard_size, prefix)
    self._list = folder / name
    self._lock = threading.Lock()
    self._places = threading.Semaphore(_WAITING)
    self._made = self._read_list()

  def __enter__(self):
    self._parts.mkdir(parents=True, exist_ok=True)
    self._pool = ThreadPoolExecutor(_THREADS)
    self._jobs: list[Future] = []
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

  def missing(self) -> list[Picture]:
    """What is still to be made.

    Raises UserError where the folder has a picture of that name already that
    was made otherwise.
    """
    out = []
    for picture in self._wanted:
      made, asked = self.made(picture), picture.about
      if made is None:
        out.append(picture)
      elif changed := sorted(
          k for k in {*made, *asked} - {'version', *picture.found}
          if made.get(k) != asked.get(k)):
        key = changed[0]
        raise UserError(
          f'{self._folder} holds {picture.file} already, made with {key}='
          f'{made.get(key)!r} and not {asked.get(key)!r}; choose another '
          '--out, or remove that folder.')
    return out

  def made(self, picture: Picture) -> Mapping[str, Any] | None:
    """What is known of a picture that is made."""
    return self._made.get(picture.file)

  def add(self, pictures: Sequence[Picture], pixels) -> None:
    """Writes a batch in the background; pixels are uint8 [b y x 3].

    They may still be on their way from the device. Waits where the disk is far
    behind, and raises what went wrong there.
    """
    self._raise_failures()
    self._places.acquire()
    self._jobs.append(self._pool.submit(self._write, pictures, pixels))

  def open(self, picture: Picture) -> Image.Image:
    """A picture that is made."""
    shard = self._shards.get(picture.file)
    if shard is None:
      path = self._folder / picture.file
      return Image.open(io.BytesIO(path.read_bytes()))
    with tarfile.open(self._folder / shard) as tar:
      return Image.open(io.BytesIO(tar.extractfile(picture.file).read()))

  def _write(self, pictures, pixels):
    try:
      for picture, image in zip(pictures, np.asarray(pixels)):
        suffix = pathlib.PurePath(picture.file).suffix
        images.write_bytes(self._parts / picture.file, images.encode(
          image, suffix, picture.about))
        with self._lock:
          self._made[picture.file] = dict(picture.about)
          self._log.write(_line(picture.file, picture.about))
          self._log.flush()
        self._on_written()
    finally:
      self._places.release()

  def _raise_failures(self, wait=False):
    done = [job for job in self._jobs if wait or job.done()]
    self._jobs = [job for job in self._jobs if job not in done]
    for job in done:
      job.result()

  def _read_list(self):
    """What earlier runs made: the lines whose file is there."""
    made, there = {}, _Files(self._folder, self._parts, self._shards)
    for line in _lines(self._list):
      file = line.pop('file', None)
      if file in there:
        made[file] = line
    return made

  def _finish(self):
    """Packs complete shards; the list in order, without repetitions."""
    by_shard = {}
    for file, shard in self._shards.items():
      by_shard.setdefault(shard, []).append(file)
    for shard, files in by_shard.items():
      whole = all(file in self._made for file in files)
      if whole and not (self._folder / shard).exists():
        _pack(self._folder / shard, self._parts, files, self._made)
    if self._parts != self._folder and not any(self._parts.iterdir()):
      self._parts.rmdir()
    order = [p.file for p in self._wanted if p.file in self._made]
    others = sorted(set(self._made) - set(order))
    images.write_bytes(self._list, b''.join(
      _line(file, self._made[file]) for file in [*order, *others]))


class _Files:
  """Which pictures are in a folder or its shards."""

  def __init__(self, folder, parts, shards):
    self._there = {p.name for p in parts.iterdir()} if parts.is_dir() else set()
    self._shards, self._folder = shards, folder

  def __contains__(self, file):
    shard = self._shards.get(file)
    return file in self._there or (
      shard is not None and (self._folder / shard).exists())


def _shards(wanted, size, prefix) -> dict[str, str]:
  """The tar file of each picture."""
  return {p.file: f'shard-{prefix}{i // size:06d}.tar'
          for i, p in enumerate(wanted)} if size else {}


def _pack(path, parts, files: Iterable[str], made) -> None:
  """One tar file of pictures and what is known of them; then they go."""
  files = list(files)
  partial = path.with_name(f'.{path.name}.part')
  try:
    with tarfile.open(partial, 'w', format=tarfile.USTAR_FORMAT) as tar:
      for file in files:
        about = json.dumps(made[file], ensure_ascii=False).encode()
        name = pathlib.PurePath(file).with_suffix('.json').name
        for member, data in ((file, (parts / file).read_bytes()),
                             (name, about)):
          info = tarfile.TarInfo(member)
          info.size = len(data)
          tar.addfile(info, io.BytesIO(data))
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)
  for file in files:
    (parts / file).unlink()


def _line(file, about) -> bytes:
  return (json.dumps({'file': file, **about}, ensure_ascii=False) + '\n'
          ).encode()


def _lines(path):
  """The objects of a JSON-lines file; a line cut short is none."""
  if not path.is_file():
    return
  for line in path.read_bytes().splitlines():
    try:
      value = json.loads(line)
    except ValueError:
      continue
    if isinstance(value, dict):
      yield value


def _end_line(log, path) -> None:
  """Ends the line that a killed run may have left half-written."""
  if path.stat().st_size and not path.read_bytes().endswith(b'\n'):
    log.write(b'\n')
