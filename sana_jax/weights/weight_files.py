"""Files with the weights of a part, whole or in shards, in any variant.

  STEM.safetensors         STEM.safetensors.index.json
  STEM.fp16.safetensors    STEM.safetensors.index.fp16.json
  STEM.bin                 STEM.bin.index.json

The first of them that exists is read, float32 before half precision, and
safetensors before torch's own files, whose code is not run (pth.py).
"""

from collections.abc import Callable, Collection, Iterator
import os
import pathlib
import re
from typing import Any, NamedTuple

from absl import logging

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.printable import printable
from sana_jax.weights import pth, safetensors_files
from sana_jax.weights.tensors import is_name, Stored

HALVES = ('fp16', 'bf16')  # Variants, in the order of preference.
_OTHERS = ('.bin', '.pth', '.pt', '.ckpt', '.safetensors', '.msgpack', '.h5')
_JSON_BYTES = 2**24  # Limit of an index: 100,000 tensors.
_MOST_FILES = 1000  # Limit of one model.
# Other .bin files are of trainers.
_STEM = re.compile(r'(^|/)(diffusion_pytorch_model|pytorch_model|model)[.-]')
_OF_TORCH = {'model': 'pytorch_model'}  # Stems that differ, of transformers.


class _Choice(NamedTuple):
  """Names of a file, or of the index of several, and their reader."""

  whole: str
  index: str
  suffix: str
  read: Callable[[pathlib.Path], dict[str, Stored]]


def _choices(stem: str) -> Iterator[_Choice]:
  for suffix, name, read in (
    ('.safetensors', stem, safetensors_files.read_file),
    ('.bin', _OF_TORCH.get(stem, stem), pth.read),
  ):
    for half in ('', *(f'.{half}' for half in HALVES)):
      index = f'{name}{suffix}.index{half}.json'
      yield _Choice(f'{name}{half}{suffix}', index, suffix, read)


def variant(names: Collection[str]) -> list[str]:
  """The files of the first choice among the names of a folder; [] for none."""
  for suffix in '.safetensors', '.bin':
    weights = [n for n in names if n.endswith(suffix) and _STEM.search(n)]
    halves = {half: _of_half(weights, half) for half in HALVES}
    whole = [n for n in weights if not any(n in of for of in halves.values())]
    for half, found in {'': whole, **halves}.items():
      if found:
        indices = [n for n in names if n.endswith('.json') and '.index.' in n]
        return found + (_of_half(indices, half) if half else [])
  return []


def _of_half(names, half):
  """Names that have the variant between dots or a dash, as in x.fp16-00001-."""
  pattern = rf'\.{half}(?=[.-])'
  return [n for n in names if re.search(pattern, n.rpartition('/')[2])]


def read(folder: pathlib.Path, stem: str) -> dict[str, Stored]:
  """All tensors of `stem`.safetensors, or of the other files above.

  Raises UserError for a file that is missing, damaged or truncated, and if an
  index and its files disagree.
  """
  usual = folder / f'{stem}.safetensors'
  for choice in _choices(stem):
    index, whole = folder / choice.index, folder / choice.whole
    try:
      places = files.read_json(index, most=_JSON_BYTES).get('weight_map')
    except FileNotFoundError:
      if not os.path.lexists(whole):
        continue
      _mention(usual, whole)
      return choice.read(whole)
    _mention(usual.with_name(f'{usual.name}.index.json'), index)
    return _sharded(index, places, choice)
  raise _missing(folder, usual)


def _mention(usual, path):
  """Warns if another file than the usual one is read."""
  if path.name != usual.name:
    logging.warning('%s is missing; %s is read.', usual, path.name)


def _missing(folder, usual) -> UserError:
  """Error that lists files in other formats."""
  others = sorted(
    p.name for p in folder.glob('*') if p.suffix in _OTHERS and p.is_file()
  )
  there = (
    f'; there is {printable(", ".join(others[:5]), 300)}: make that file with '
    'sana-jax convert, or with save_pretrained of diffusers'
    if others
    else ''
  )
  return UserError(
    f'{usual} is missing{there}.',
    key='--model',
    value=str(folder),
    allowed=usual.name,
  )


def _sharded(index, places: Any, choice) -> dict[str, Stored]:
  """Tensors of the files of an index."""
  tensors = {}
  for name in _file_names(index, places, choice.suffix):
    part = choice.read(index.parent / name)
    if wrong := sorted(key for key in part if places.get(key) != name):
      raise _disagree(index, wrong)
    tensors |= part
  if wrong := sorted(set(places) - set(tensors)):
    raise _disagree(index, wrong)
  return tensors


def _file_names(index, places, suffix):
  """Names of the files of an index, which must be in its folder."""
  if (
    not isinstance(places, dict)
    or not places
    or not all(isinstance(name, str) for name in places.values())
  ):
    raise UserError(
      f'{index} has no weight_map from tensors to files.',
      key='weight_map',
      value=index,
      allowed='names of files',
    )
  names = sorted(set(places.values()))
  for name in names:
    if not is_name(name) or '/' in name or not name.endswith(suffix):
      raise UserError(
        f'{index} names {printable(name, 100)!r}, which is not a '
        f'{suffix} file of its folder.',
        key='weight_map',
        value=name,
        allowed=f'*{suffix}',
      )
  if len(names) > _MOST_FILES:
    raise UserError(
      f'{index} names {len(names)} files; {_MOST_FILES} are allowed.',
      key='weight_map',
      value=len(names),
      allowed=f'{_MOST_FILES} or fewer',
    )
  return names


def _disagree(index, keys):
  shown = ', '.join(printable(key, 100) for key in keys[:5])
  return UserError(
    f'{index} and its files do not have the same tensors: '
    f'{shown}; the folder may mix two models.',
    key='weight_map',
    value=list(keys),
  )
