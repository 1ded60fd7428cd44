"""A folder of images with caption files.

The caption of `cat.jpg` is in `cat.txt`, or its captions are in `cat.json`, see
captions.from_json. Images are scaled by the shorter side and centre-cropped.
"""

import os
import posixpath
from typing import Any

import numpy as np

from sana_jax.data import captions, files
from sana_jax.data.array_cache import cached_arrays, FAILED_READS
from sana_jax.data.images import (
  DAMAGED,
  header_sizes,
  in_threads,
  read_image,
  SUFFIXES,
)
from sana_jax.data.records import BadRecord, BadRecords, MAX_BAD_FRACTION
from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.paths import expanded
from sana_jax.typing import Float, Int

__all__ = ['FolderSource', 'read_image']


class FolderSource:
  """Image-caption pairs of a folder and its subfolders, sorted by name.

  Images without a caption are skipped and counted in `bad`; a damaged file
  raises BadRecord when it is read.
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
    names = _image_names(self._root, self._files)
    self.bad = BadRecords(len(names), max_bad_fraction)
    self._pairs = _pairs(names, self._files)
    self.bad.saw_good(len(self._pairs))
    for name in sorted(set(names) - {name for name, _ in self._pairs}):
      stem = posixpath.splitext(posixpath.basename(name))[0]
      self.bad.add(BadRecord(name, f'no {stem}.txt or {stem}.json beside it'))
    if not self._pairs:
      raise UserError(
        f'{self._root} contains no image with a caption; give '
        'each image a .txt or .json file of the same name.'
      )

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, index: int) -> dict[str, Any]:
    name, caption = self._pairs[index]
    try:
      texts, scores = self._captions(caption)
      return captions.record(self._read(name), texts, scores, index, self._size)
    except DAMAGED as error:
      raise BadRecord(name, _first_line(error)) from error

  def sizes(self) -> Int[np.ndarray, 'n 2']:
    """(height, width) as stored, from the images' headers."""
    make = lambda: header_sizes(
      lambda index, end: self._read(self._pairs[index][0], end), len(self)
    )
    return cached_arrays(self._cache, self._key('sizes'), make)['sizes']

  def scores(self) -> Float[np.ndarray, 'n']:
    """CLIP scores of .json files that filters compare; NaN for others."""

    def make():
      found = in_threads(self._score, self._pairs)
      return {
        'scores': np.asarray([score for score, _ in found], np.float32),
        FAILED_READS: np.sum([failed for _, failed in found]),
      }

    return cached_arrays(self._cache, self._key('scores'), make)['scores']

  def _score(self, pair):
    """(score or NaN, whether reading failed)."""
    try:
      return captions.filter_score(self._captions(pair[1])[1]), False
    except DAMAGED as error:
      return float('nan'), isinstance(error, OSError)

  def _captions(self, file):
    text = self._read(file).decode()
    if file.endswith('.txt'):
      named, scores = captions.usable({captions.DEFAULT: text}), {}
    else:
      named, scores = captions.from_json(parse_json(text))
    if not named:
      raise ValueError(f'{posixpath.basename(file)} contains no caption')
    return named, scores

  def _read(self, name, end=None):
    return files.read(f'{self._root}/{name}', 0, end)

  def _key(self, what):
    return [
      'folder',
      what,
      self._root,
      [[name, *self._files[name]] for pair in self._pairs for name in pair],
    ]


def listing(path: str) -> dict[str, tuple[int, str]]:
  """(size, version) of images and caption files, by relative path."""
  found = _listed(path.rstrip('/'))
  return {
    name: found[name]
    for pair in _pairs(_image_names(path, found), found)
    for name in pair
  }


def _listed(root):
  if not files.is_folder(root):
    raise UserError(
      f'{root} is not a folder; set the data path to a folder '
      'of images with captions.'
    )
  return files.list_recursively(root)


def _image_names(root, found):
  names = [
    name
    for name in found
    if posixpath.splitext(name)[1].lower() in SUFFIXES
    and not posixpath.basename(name).startswith('.')
  ]
  if not names:
    raise UserError(
      f'{root} contains no images; put {", ".join(SUFFIXES)} files '
      'in it or set the data path to another folder.'
    )
  return names


def _pairs(images, found):
  """(image, caption file) of the images that have one."""
  pairs = ((name, _caption_file(name, found)) for name in images)
  return [(name, file) for name, file in pairs if file]


def _caption_file(name, found):
  """The caption file of an image, or None."""
  stem = posixpath.splitext(name)[0]
  return next(
    (stem + suffix for suffix in ('.txt', '.json') if stem + suffix in found),
    None,
  )


def _first_line(error):
  return (str(error) or type(error).__name__).splitlines()[0]
