"""safetensors files, read tensor by tensor and written as a stream.

  STEM.safetensors, or several files and STEM.safetensors.index.json

Nothing is mapped into memory for longer than one read, so that a process's
peak is its model and not its model plus its files.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import safetensors

from sana_jax.errors import UserError
from sana_jax.weights.tensors import Stored

# Tensors of one file together stay below this; diffusers' own limit.
SHARD_BYTES = 10 * 10**9
# In the order in which the reference writer puts them: wide types come first,
# so that all stay aligned.
_DTYPES = {
  'I64': np.int64, 'F64': np.float64, 'F32': np.float32, 'I32': np.int32,
  'BF16': jnp.bfloat16, 'F16': np.float16, 'I16': np.int16,
  'F8_E4M3': jnp.float8_e4m3fn, 'F8_E5M2': jnp.float8_e5m2, 'I8': np.int8,
  'U8': np.uint8, 'BOOL': np.bool_}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


def read(folder: pathlib.Path, stem: str) -> dict[str, Stored]:
  """All tensors of `stem`.safetensors, or of the files that its index names.

  Raises UserError for a file that is missing, damaged or cut short, and where
  the index and the files disagree.
  """
  index = folder / f'{stem}.safetensors.index.json'
  if not index.is_file():
    return read_file(folder / f'{stem}.safetensors')
  places = read_json(index).get('weight_map')
  if not isinstance(places, dict) or not all(
      isinstance(name, str) for name in places.values()):
    raise UserError(f'{index} has no weight_map from tensors to files.')
  tensors = {}
  for name in sorted(set(places.values())):
    if pathlib.PurePath(name).name != name:
      raise UserError(f'{index} names {name!r}, which lies in another folder.')
    tensors |= read_file(folder / name)
  if wrong := sorted(set(places) ^ set(tensors)):
    raise UserError(f'{index} and its files do not hold the same tensors: '
                    f'{", ".join(wrong[:5])}; the folder may mix two models.')
  return tensors


def read_file(path: pathlib.Path) -> dict[str, Stored]:
  """The tensors of one file, by name."""
  with _opened(path) as file:
    slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
    return {key: Stored(tuple(s.get_shape()), _dtype(path, key, s.get_dtype()),
                        _rows_of(path, key, s.get_shape()))
            for key, s in slices.items()}


def _rows_of(path, key, shape):
  def fetch(start, stop):
    with _opened(path) as file:
      if not shape or (start <= 0 and stop >= shape[0]):
        return file.get_tensor(key)
      return file.get_slice(key)[start:stop]
  return fetch


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator:
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      yield file
  except FileNotFoundError:
    raise UserError(f'{path} is missing.') from None
  except (OSError, safetensors.SafetensorError) as e:
    raise UserError(f'{path} cannot be read ({e}); it may be damaged or cut '
                    'short: fetch it again.') from e


def _dtype(path, key, name):
  if name not in _DTYPES:
    raise UserError(f'{path}: {key} has the dtype {name}; allowed are '
                    f'{", ".join(_DTYPES)}.')
  return np.dtype(_DTYPES[name])


def read_json(path: pathlib.Path) -> dict:
  """A JSON object; `-Infinity` is accepted, as published schedulers have it."""
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise UserError(f'{path} is missing; the model folder must be in the '
                    'diffusers layout.') from None
  except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
    raise UserError(f'{path} cannot be read as JSON ({e}).') from e
  if not isinstance(value, dict):
    raise UserError(f'{path} holds no JSON object.')
  return value


def write(
  folder: pathlib.Path, stem: str, tensors: Mapping[str, Stored],
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """One file, or several and an index where the tensors need more space."""
  shards = _split(tensors, shard_bytes)
  if len(shards) == 1:
    write_file(folder / f'{stem}.safetensors', tensors)
    return
  places = {}
  for i, keys in enumerate(shards):
    name = f'{stem}-{i + 1:05}-of-{len(shards):05}.safetensors'
    write_file(folder / name, {key: tensors[key] for key in keys})
    places |= dict.fromkeys(keys, name)
  total = sum(t.nbytes for t in tensors.values())
  (folder / f'{stem}.safetensors.index.json').write_text(json.dumps(
    {'metadata': {'total_size': total}, 'weight_map': dict(sorted(
      places.items()))}, indent=2) + '\n', encoding='utf-8')


def _split(tensors, shard_bytes):
  """Keys of each file, in order."""
  shards, size = [[]], 0
  for key in sorted(tensors):
    if shards[-1] and size + tensors[key].nbytes > shard_bytes:
      shards, size = [*shards, []], 0
    shards[-1].append(key)
    size += tensors[key].nbytes
  return shards


def write_file(path: pathlib.Path, tensors: Mapping[str, Stored]) -> None:
  """One file; it appears under its name only when it is whole."""
  rank = list(_DTYPES)
  order = sorted(tensors, key=lambda k: (
    rank.index(_NAMES[tensors[k].dtype]), k))
  header, offset = {'__metadata__': {'format': 'pt'}}, 0
  for key in order:
    t = tensors[key]
    header[key] = {'dtype': _NAMES[t.dtype], 'shape': list(t.shape),
                   'data_offsets': [offset, offset + t.nbytes]}
    offset += t.nbytes
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  partial = path.with_name(f'{path.name}.partial')
  try:
    with open(partial, 'wb') as file:
      file.write(len(text).to_bytes(8, 'little') + text)
      for key in order:
        for piece in tensors[key].pieces():
          file.write(piece)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)

