"""A folder of images with caption files, masks and kohya's subfolders.

The caption of `cat.jpg` is in `cat.txt`, its captions are in `cat.json`, a line
of `metadata.jsonl` describes it, or several of these, see facts.py; the case of
suffixes does not matter. `cat.mask.png` weights the loss of its pixels. Images
are scaled by the shorter side and centre-cropped.
"""

import os
import posixpath
from typing import Any

import numpy as np

from sana_jax.data import captions, facts, files, masks, picture_folders
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
_UNUSED_MASK = "masks are not used; set config.data.masks to 'files' for it"


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
    *,
    prompt: str = '',
    kohya: bool = False,
    masks: str = '',
  ):
    """Lists the folder.

    Args:
      prompt: caption of the images that have none.
      kohya: images are in subfolders like `10_word`, whose number is that of
        their repeats and whose words replace `prompt`.
      masks: 'files' or 'alpha' adds 'weights' to records, see masks.py.
    """
    self._root = expanded(path).rstrip('/')
    self._size, self._cache, self._masks = size, cache, masks
    self._files = _listed(self._root)
    self.remarks = Remarks()
    self.remarks.add_all(tally(_unused(self._files, masks)))
    names = _image_names(self._root, self._files)
    self.bad = BadRecords(len(names), max_bad_fraction)
    self._lines = picture_folders.described(self._root, self._files)
    self._prompts = dict.fromkeys(names, prompt)
    self._repeats = dict.fromkeys(names, 1)
    if kohya:
      self._repeats, self._prompts = picture_folders.kohya(self._root, names)
    self._samples = [
      row
      for row in _samples(names, self._files)
      if any(row[1:]) or row[0] in self._lines or self._prompts[row[0]]
    ]
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
    name = self._samples[index][0]
    try:
      found, remarks = self._facts(*self._samples[index])
      for remark in remarks:
        self.remarks.add(remark, name)
      content = self._read(name)
      record = captions.record(content, found, index, self._size)
      if self._masks:
        record['weights'] = self._weights(name, content, record['image'])
      return record
    except UserError:  # A mask of another size.
      raise
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

  def repeats(self) -> Int[np.ndarray, 'n']:
    """Relative frequency of each record in training."""
    return np.asarray([self._repeats[sample[0]] for sample in self._samples])

  def _metadata(self):
    def make():
      sizes, scores, failed = zip(*in_threads(self._row, self._samples))
      return {
        'sizes': np.asarray(sizes, np.int32),
        'scores': np.asarray(scores, np.float32),
        FAILED_READS: np.sum(failed),
      }

    lines = [x for x in self._files if _kind(x) == picture_folders.LINES]
    key = ['folder', _VERSION, self._root]
    key += [
      [[name, *self._files[name]] for name in sample if name]
      for sample in [*self._samples, *([x] for x in lines)]
    ]
    return cached_arrays(self._cache, key, make)

  def _row(self, sample):
    """((height, width), score, whether reading failed); unknown if damaged."""
    name = sample[0]
    found, failed = facts.Facts(), False
    try:
      found, _ = self._facts(*sample)
    except DAMAGED as error:
      failed = isinstance(error, OSError)
    size, no_header = facts.size_or(
      found.size, lambda: try_size_of(lambda end: self._read(name, end))
    )
    return size, facts.filter_score(found.scores), failed or no_header

  def _facts(self, name, text, json):
    found, remarks = facts.of_files(
      *(file and self._read(file) for file in (text, json)),
      self._lines.get(name),
    )
    if not found.captions and self._prompts[name]:
      prompt = {facts.DEFAULT: self._prompts[name]}
      return found._replace(captions=prompt), remarks
    if not found.captions:
      raise ValueError(
        f'{posixpath.basename(text or json or picture_folders.LINES)} '
        'contains no caption'
      )
    return found, remarks

  def _weights(self, name, content, image):
    if self._masks == 'alpha':
      return masks.of_alpha(content, self._size)
    file = _mask_of(name, self._files)
    if file is None:
      return np.full(image.shape[:2], 255, np.uint8)
    weights = masks.of_file(
      self._read(file), content, f'{self._root}/{file}', self._size
    )
    if not weights.any():
      self.remarks.add('it is black, so that its image has no effect', file)
    return weights

  def _read(self, name, end=None):
    return files.read(f'{self._root}/{name}', 0, end)


def listing(path: str, prompted: bool = False) -> dict[str, tuple[int, str]]:
  """(size, version) of images and their files, by relative path.

  Args:
    prompted: whether images without a caption are used, too.
  """
  found = _listed(path.rstrip('/'))
  lines = [name for name in found if _kind(name) == picture_folders.LINES]
  rows = _samples(_image_names(path, found), found)
  kept = [row for row in rows if prompted or lines or any(row[1:])]
  with_masks = [(*row, _mask_of(row[0], found)) for row in kept]
  return {
    name: found[name] for row in [*with_masks, lines] for name in row if name
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
  """'image', 'mask', metadata.jsonl, '.txt' or '.json'; '' for all others."""
  base, suffix = posixpath.basename(name), posixpath.splitext(name)[1].lower()
  if base.startswith('.'):
    return ''
  if base == picture_folders.LINES:
    return base
  if base.lower().endswith(masks.SUFFIX):
    return 'mask'
  return 'image' if suffix in SUFFIXES else suffix * (suffix in _TEXTS)


def _mask_of(name, found):
  """Name of an image's mask, or None."""
  mask = posixpath.splitext(name)[0] + masks.SUFFIX
  return mask if mask in found else None


def _unused(found, masked=''):
  """(reason, name) of the files that belong to no image."""
  stems = {_stem(name) for name in found if _kind(name) == 'image'}
  for name in found:
    kind = _kind(name)
    if not kind:
      yield unread(name), name
    elif kind == 'mask' and masked != 'files':
      yield _UNUSED_MASK, name
    elif kind in ('mask', *_TEXTS) and _stem(name) not in stems:
      yield _NO_IMAGE, name


def _samples(images, found):
  """(image, text file or None, JSON file or None) of each image."""
  texts = {
    (_stem(name), _kind(name)): name for name in found if _kind(name) in _TEXTS
  }
  return [
    (name, *(texts.get((_stem(name), kind)) for kind in _TEXTS))
    for name in images
  ]


def _stem(name):
  """The name that an image and its files have in common."""
  is_mask = _kind(name) == 'mask'
  return name[: -len(masks.SUFFIX)] if is_mask else posixpath.splitext(name)[0]


def _first_line(error):
  return (str(error) or type(error).__name__).splitlines()[0]
