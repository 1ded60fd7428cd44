"""A folder of images with caption files.

The caption of `cat.jpg` is in `cat.txt`, its captions are in `cat.json`, or
both, see facts.py; the case of suffixes does not matter. Images are scaled by
the shorter side and centre-cropped.
"""

import os
import posixpath
from typing import Any

import numpy as np

from sana_jax.data import captions, facts, files
from sana_jax.data.array_cache import cached_arrays, FAILED_READS
from sana_jax.data.images import (
  DAMAGED,
  in_threads,
  read_image,
  SUFFIXES,
  try_size_of,
)
from sana_jax.data.records import BadRecord, BadRecords, MAX_BAD_FRACTION
from sana_jax.data.remarks import Remarks, summary, tally, unread
from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.typing import Float, Int

__all__ = ['FolderSource', 'read_image']

_VERSION = 2  # Version of the cached metadata.
_TEXTS = ('.txt', '.json')
_NO_IMAGE = 'no image of the same name is beside it'


class FolderSource:
  """Image-caption pairs of a folder and its subfolders, sorted by name.

  Images without a caption are skipped and counted in `bad`, files that belong
  to no image in `remarks`; a damaged file raises BadRecord when it is read.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    size: int | None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    cache: str | os.PathLike | None = None,
  ):
    self._root = expanded(path).rstrip('/')
    self._size, self._cache = size, cache
    self._files = _listed(self._root)
    self.remarks = Remarks()
    self.remarks.add_all(tally(_unused(self._files)))
    names = _image_names(self._root, self._files)
    self.bad = BadRecords(len(names), max_bad_fraction)
    self._samples = _samples(names, self._files)
    self.bad.saw_good(len(self._samples))
    for name in sorted(set(names) - {sample[0] for sample in self._samples}):
      stem = posixpath.splitext(posixpath.basename(name))[0]
      self.bad.add(BadRecord(name, f'no {stem}.txt or {stem}.json beside it'))
    if not self._samples:
      raise UserError(
        f'{self._root} contains no image with a caption; give '
        'each image a .txt or .json file of the same name.',
        key='data.path',
        value=self._root,
        allowed='a folder of images with captions',
      )

  def __len__(self) -> int:
    return len(self._samples)

  def __getitem__(self, index: int) -> dict[str, Any]:
    name, *texts = self._samples[index]
    try:
      found, remarks = self._facts(*texts)
      for remark in remarks:
        self.remarks.add(remark, name)
      return captions.record(self._read(name), found, index, self._size)
    except DAMAGED as error:
      raise BadRecord(name, _first_line(error)) from error

  def name(self, index: int) -> str:
    """Path of a record's image in the folder."""
    return self._samples[index][0]

  def sizes(self) -> Int[np.ndarray, 'n 2']:
    """(height, width) of the .json, else of the images' headers."""
    return self._metadata()['sizes']

  def scores(self) -> Float[np.ndarray, 'n']:
    """CLIP scores of .json files that filters compare; NaN for others."""
    return self._metadata()['scores']

  def _metadata(self):
    def make():
      sizes, scores, failed = zip(*in_threads(self._row, self._samples))
      return {
        'sizes': np.asarray(sizes, np.int32),
        'scores': np.asarray(scores, np.float32),
        FAILED_READS: np.sum(failed),
      }

    key = ['folder', _VERSION, self._root]
    key += [
      [[name, *self._files[name]] for name in sample if name]
      for sample in self._samples
    ]
    return cached_arrays(self._cache, key, make)

  def _row(self, sample):
    """((height, width), score, whether reading failed); unknown if damaged."""
    name, *texts = sample
    found, failed = facts.Facts(), False
    try:
      found, _ = self._facts(*texts)
    except DAMAGED as error:
      failed = isinstance(error, OSError)
    size, no_header = facts.size_or(
      found.size, lambda: try_size_of(lambda end: self._read(name, end))
    )
    return size, facts.filter_score(found.scores), failed or no_header

  def _facts(self, text, json):
    found, remarks = facts.of_files(
      *(name and self._read(name) for name in (text, json))
    )
    if not found.captions:
      raise ValueError(
        f'{posixpath.basename(text or json)} contains no caption'
      )
    return found, remarks

  def _read(self, name, end=None):
    return files.read(f'{self._root}/{name}', 0, end)


def listing(path: str) -> dict[str, tuple[int, str]]:
  """(size, version) of images and caption files, by relative path."""
  found = _listed(path.rstrip('/'))
  return {
    name: found[name]
    for sample in _samples(_image_names(path, found), found)
    for name in sample
    if name
  }


def _listed(root):
  if not files.is_folder(root):
    raise UserError(
      f'{root} is not a folder; set the data path to a folder '
      'of images with captions.',
      key='data.path',
      value=root,
      allowed='folders',
    )
  return files.list_recursively(root)


def _image_names(root, found):
  names = [name for name in found if _kind(name) == 'image']
  if not names:
    left_out = summary(tally(_unused(found)))
    raise UserError(
      f'{root} contains no images; put {", ".join(SUFFIXES)} files '
      f'in it or set the data path to another folder{left_out}.',
      key='data.path',
      value=root,
      allowed=SUFFIXES,
    )
  return names


def _kind(name):
  """'image', '.txt' or '.json'; '' for files that are not read."""
  suffix = posixpath.splitext(name)[1].lower()
  if posixpath.basename(name).startswith('.'):
    return ''
  return 'image' if suffix in SUFFIXES else suffix * (suffix in _TEXTS)


def _unused(found):
  """(reason, name) of the files that belong to no image."""
  stems = {
    posixpath.splitext(name)[0] for name in found if _kind(name) == 'image'
  }
  for name in found:
    kind = _kind(name)
    if not kind:
      yield unread(name), name
    elif kind != 'image' and posixpath.splitext(name)[0] not in stems:
      yield _NO_IMAGE, name


def _samples(images, found):
  """(image, text file or None, JSON file or None) of images with a caption."""
  texts = {
    (posixpath.splitext(name)[0], _kind(name)): name
    for name in found
    if _kind(name) in _TEXTS
  }
  rows = (
    (name, *(texts.get((posixpath.splitext(name)[0], kind)) for kind in _TEXTS))
    for name in images
  )
  return [row for row in rows if any(row[1:])]


def _first_line(error):
  return (str(error) or type(error).__name__).splitlines()[0]
