"""safetensors files, read tensor by tensor and written as a stream.

A file is 8 bytes with the size of its header, the header in JSON, and the
tensors without gaps. The safetensors library is not used, as it maps the file:
the process would end with SIGBUS if the file was truncated, block on a fifo,
and count the file as its memory.
"""

from collections.abc import Mapping
import contextlib
import json
import math
import pathlib
import sys
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.printable import printable
from sana_jax.weights import ranges
from sana_jax.weights.tensors import is_name, is_shape, MOST_TENSORS, Stored

# Limit of the tensors of one file, as in diffusers.
SHARD_BYTES = 10 * 10**9
# In the order of the reference writer: wide types first, so that all are
# aligned.
_DTYPES = {
  'I64': np.int64,
  'F64': np.float64,
  'F32': np.float32,
  'I32': np.int32,
  'BF16': jnp.bfloat16,
  'F16': np.float16,
  'I16': np.int16,
  'F8_E4M3': jnp.float8_e4m3fn,
  'F8_E5M2': jnp.float8_e5m2,
  'I8': np.int8,
  'U8': np.uint8,
  'BOOL': np.bool_,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_JSON_BYTES = 2**24  # Limit of a header: 100,000 tensors.


def read_file(path: pathlib.Path) -> dict[str, Stored]:
  """Tensors of one file by name; their values are not read."""
  with _reading(path):
    source, start, header = _header(path)
    layout = _layout(header, source.size - start)
  return {
    key: Stored(shape, dtype, _rows_of(source, start + begin, dtype, shape))
    for key, (begin, dtype, shape) in layout.items()
  }


def metadata(path: pathlib.Path) -> dict[str, str]:
  """Texts of a file's header by name."""
  with _reading(path):
    header = files.parse_json(_header(path)[2])
    found = header.get('__metadata__') if isinstance(header, dict) else None
    if not isinstance(found, dict | None):
      raise ValueError('__metadata__ that is not a JSON object')
  return {k: x for k, x in (found or {}).items() if isinstance(x, str)}


def _header(path):
  """(the file, the position of its tensors, its header)."""
  with files.open_regular(path) as file:
    source = ranges.checked(path, file)
    start = 8 + int.from_bytes(file.read(8), 'little')
    if not 8 < start <= min(source.size, _JSON_BYTES):
      raise ValueError(f'a header of {start - 8} bytes')
    return source, start, file.read(start - 8)


@contextlib.contextmanager
def _reading(path):
  """Converts errors of reading a file to UserError."""
  try:
    yield
  except FileNotFoundError:
    raise UserError(
      f'{path} is missing.', value=path, allowed='existing files'
    ) from None
  except (OSError, ValueError) as e:
    raise UserError(
      f'{path} cannot be read ({printable(e, 300)}); it may be '
      'damaged or truncated: download it again.',
      value=path,
    ) from e


def _layout(header: bytes, size: int) -> dict[str, tuple]:
  """(position, dtype, shape) of each tensor.

  Raises ValueError unless the tensors fill `size` bytes without gaps.
  """
  fields = files.parse_json(header)
  if not isinstance(fields, dict):
    raise ValueError('a header that is not a JSON object')
  fields.pop('__metadata__', None)
  if len(fields) > MOST_TENSORS:
    raise ValueError(f'{len(fields)} tensors; {MOST_TENSORS} are allowed')
  out, ends = {}, {}
  for key, about in fields.items():
    shown = printable(key, 100)
    if not is_name(key):
      raise ValueError(f'the name {shown!r}')
    dtype, shape, (begin, end) = _fields_of(shown, about)
    if end - begin != math.prod(shape) * dtype.itemsize:
      raise ValueError(
        f'{shown} has {end - begin} bytes, which are not {dtype}{list(shape)}'
      )
    out[key] = begin, dtype, shape
    ends[key] = begin, end
  position = 0
  for key, (begin, end) in sorted(ends.items(), key=lambda item: item[1]):
    if begin != position:
      raise ValueError(
        f'{printable(key, 100)} begins at byte {begin} and not at {position}'
      )
    position = end
  if position != size:
    raise ValueError(f'{position} bytes of tensors in {size} bytes')
  return out


def _fields_of(shown, about):
  """Checked dtype, shape and offsets."""
  about = about if isinstance(about, dict) else {}
  name, shape, offsets = (
    about.get(key) for key in ('dtype', 'shape', 'data_offsets')
  )
  if not isinstance(name, str) or name not in _DTYPES:
    got = printable(name, 100) if isinstance(name, str) else 'missing'
    raise ValueError(
      f'{shown} has the dtype {got}; allowed are {", ".join(_DTYPES)}'
    )
  if not is_shape(shape):
    raise ValueError(f'{shown} has an invalid shape')
  if (
    not isinstance(offsets, list)
    or len(offsets) != 2
    or not all(type(n) is int and 0 <= n < 2**63 for n in offsets)
  ):
    raise ValueError(f'{shown} has no data_offsets')
  return np.dtype(_DTYPES[name]), tuple(shape), offsets


def _rows_of(source, position, dtype, shape):
  width = math.prod(shape[1:])

  def fetch(start, stop):
    rows = max(0, min(stop, shape[0]) - start) if shape else 1
    numbers = source.read(
      position + start * width * dtype.itemsize,
      rows * width,
      dtype,
      swapped=sys.byteorder == 'big',
    )
    return numbers.reshape((rows, *shape[1:]) if shape else ())

  return fetch


def write(
  folder: pathlib.Path,
  stem: str,
  tensors: Mapping[str, Stored],
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes one file, or several and an index if the tensors are larger."""
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
  files.write_text(
    folder / f'{stem}.safetensors.index.json',
    json.dumps(
      {
        'metadata': {'total_size': total},
        'weight_map': dict(sorted(places.items())),
      },
      indent=2,
    )
    + '\n',
  )


def _split(tensors, shard_bytes):
  """Keys of each file, in order."""
  shards, size = [[]], 0
  for key in sorted(tensors):
    if shards[-1] and size + tensors[key].nbytes > shard_bytes:
      shards, size = [*shards, []], 0
    shards[-1].append(key)
    size += tensors[key].nbytes
  return shards


def write_file(
  path: pathlib.Path,
  tensors: Mapping[str, Stored],
  metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
  """Writes one file, atomically; `metadata` are further texts of its header."""
  rank = list(_DTYPES)
  order = sorted(
    tensors, key=lambda k: (rank.index(_NAMES[tensors[k].dtype]), k)
  )
  header, offset = {'__metadata__': {'format': 'pt', **metadata}}, 0
  for key in order:
    t = tensors[key]
    header[key] = {
      'dtype': _NAMES[t.dtype],
      'shape': list(t.shape),
      'data_offsets': [offset, offset + t.nbytes],
    }
    offset += t.nbytes
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  with files.atomically(path) as part, open(part, 'wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    for key in order:
      for piece in tensors[key].pieces():
        file.write(piece)
