"""Checkpoints of torch (.pth, .pt, .bin), without torch.

  ROOT/data.pkl   names, shapes, and which storage each tensor views
  ROOT/data/KEY   the numbers of one storage
  ROOT/byteorder  'little' or 'big'

in a zip file, none of it compressed: torch.save since 1.6 (pth_legacy.py has
the format before). Unlike torch.load, reading is lazy, and runs nothing
whatever the file says (see pickled.py).
"""

from collections.abc import Mapping
import math
import os
import pathlib
import struct
import sys
from typing import NamedTuple
import zipfile

import numpy as np

from sana_jax.errors import UserError
from sana_jax.weights import pickled, pth_legacy
from sana_jax.weights.tensors import Stored

_ALIGNMENT = 64  # Of every storage in the file, as torch has it.
_LOCAL_HEADER = 30  # Bytes before a zip member's name.
_ZIP64 = 2**30  # Members from here on get wide sizes.


class _Archive(NamedTuple):
  path: pathlib.Path
  pickle: bytes
  storages: Mapping[str, tuple[int, int]]  # Key -> (position, bytes).
  swapped: bool  # Written on a machine of the other byte order.


def read(path: pathlib.Path, *, ema: bool = False) -> dict[str, Stored]:
  """The model's tensors by name: `state_dict`, or a file that is only that.

  Args:
    ema: the averaged weights (`state_dict_ema`) instead.

  Raises:
    UserError: a file that is damaged, of another kind, or holds anything but
      tensors, numbers and text; nothing in it has been run.
  """
  path = pathlib.Path(path)
  try:
    archive = _open(path)
    content = pickled.loads(archive.pickle)
  except pickled.Refused as e:
    raise UserError(
      f'{path} holds {e}, where only tensors, dicts, lists, numbers and text '
      'are read; nothing of it was run: if you trust it, save its weights '
      "alone with torch, torch.save({'state_dict': torch.load(FILE, "
      "weights_only=False)['state_dict']}, NEW_FILE).") from None
  return {name: _stored(archive, name, tensor)
          for name, tensor in _model(path, content, ema).items()}


def _model(path, content, ema):
  """The dict with the model's tensors."""
  key = 'state_dict_ema' if ema else 'state_dict'
  keys = sorted(map(str, content)) if isinstance(content, dict) else []
  if ema and key not in keys:
    raise UserError(f'{path} has no averaged weights (state_dict_ema) but '
                    f'{_some(keys)}; leave out --ema.')
  model = content[key] if key in keys else content
  if not isinstance(model, dict) or not model:
    raise UserError(f'{path} holds no dict of tensors.')
  if odd := [k for k, v in model.items() if not (
      isinstance(k, str) and isinstance(v, pickled.Tensor))]:
    raise UserError(
      f'{path} has no state_dict, and is none, as {_some(odd)} are no '
      'tensors.' if model is content else
      f'{path}: {_some(odd)} in its {key} are no tensors.')
  return model


def _some(names):
  names = [str(name) for name in names]
  return ', '.join(names[:5]) + (', …' if names[5:] else '')


def _open(path):
  try:
    with open(path, 'rb') as file:
      start = file.read(len(pth_legacy.MAGIC))
      if start == pth_legacy.MAGIC:
        return _Archive(path, *pth_legacy.read(file))
      if not start.startswith(b'PK'):
        raise UserError(f'{path} is no checkpoint of torch (no zip file); '
                        'give another file.')
      with zipfile.ZipFile(file) as archive:
        return _members(path, file, archive)
  except UserError:
    raise
  except FileNotFoundError:
    raise UserError(f'There is no file {path}; check the name.') from None
  except (OSError, ValueError, zipfile.BadZipFile, struct.error,
          NotImplementedError, EOFError) as e:
    raise UserError(f'{path} cannot be read ({e}); it may be damaged or cut '
                    'short: fetch it again.') from e


def _members(path, file, archive):
  infos = {info.filename: info for info in archive.infolist()}
  if len(infos) != len(archive.infolist()):
    raise zipfile.BadZipFile('two members of one name')
  # Torch compresses nothing, and a compressed one may unpack to anything.
  if odd := [info.filename for info in infos.values()
             if info.compress_type != zipfile.ZIP_STORED
             or info.flag_bits & 1 or info.compress_size != info.file_size]:
    raise UserError(f'{path} has compressed or encrypted members '
                    f'({_some(odd)}), which torch does not write.')
  roots = [name[:-len('data.pkl')] for name in infos
           if name.endswith('/data.pkl') and name.count('/') == 1]
  if len(roots) != 1:
    raise UserError(f'{path} is a zip file, but no checkpoint of torch.')
  prefix = f'{roots[0]}data/'
  order = f'{roots[0]}byteorder'
  order = archive.read(order).decode('ascii', 'replace') if (
    order in infos) else 'little'
  if order not in ('little', 'big'):
    raise zipfile.BadZipFile(f'byte order {order!r}')
  return _Archive(path, archive.read(f'{roots[0]}data.pkl'), {
    name[len(prefix):]: (_start(file, info), info.file_size)
    for name, info in infos.items() if name.startswith(prefix)
  }, order != sys.byteorder)


def _start(file, info):
  """Where a member's bytes begin; its local header has its own lengths."""
  file.seek(info.header_offset)
  header = file.read(_LOCAL_HEADER)
  if header[:4] != b'PK\x03\x04':
    raise zipfile.BadZipFile(f'no {info.filename} where it should be')
  start = info.header_offset + _LOCAL_HEADER + sum(
    struct.unpack('<HH', header[26:]))
  if start + info.file_size > os.fstat(file.fileno()).st_size:
    raise zipfile.BadZipFile(f'{info.filename} reaches past the end')
  return start


def _stored(archive, name, tensor):
  """The tensor, if it lies within its storage."""
  storage, offset, shape, strides = tensor
  position, size = archive.storages.get(storage.key, (0, -1))
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  if size < 0:
    problem = f'its storage {storage.key!r} is missing'
  elif size != storage.count * storage.dtype.itemsize:
    problem = (f'its storage has {size} bytes, not {storage.count} '
               f'{storage.dtype}')
  elif len(shape) > 32:
    problem = f'it has {len(shape)} axes'
  elif 0 not in shape and last >= storage.count:
    problem = f'it reads element {last} of {storage.count}'
  elif math.prod(shape) > storage.count:
    problem = f'{shape} from {storage.count} elements'
  else:
    return Stored(shape, storage.dtype, lambda start, stop: _rows(
      archive, tensor, position, start, stop))
  raise UserError(f'{archive.path}: {name} is damaged ({problem}); fetch the '
                  'file again.')


def _rows(archive, tensor, position, start, stop):
  """Rows start to stop, and of the file no more than they span."""
  dtype, shape, strides = tensor.storage.dtype, tensor.shape, tensor.strides
  first = tensor.offset
  if shape:
    rows = max(0, min(stop, shape[0]) - start)
    first, shape = first + start * strides[0], (rows, *shape[1:])
  if 0 in shape:
    return np.empty(shape, dtype)
  span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  with open(archive.path, 'rb') as file:
    file.seek(position + first * dtype.itemsize)
    flat = np.fromfile(file, f'u{dtype.itemsize}', span)
  if len(flat) != span:
    raise UserError(f'{archive.path} has become shorter while it was read.')
  flat = (flat.byteswap() if archive.swapped else flat).view(dtype)
  if _contiguous(shape, strides):
    return flat.reshape(shape)
  return np.lib.stride_tricks.as_strided(
    flat, shape, [s * dtype.itemsize for s in strides]).copy()


def _contiguous(shape, strides):
  step = 1
  for n, stride in zip(reversed(shape), reversed(strides), strict=True):
    if n > 1 and stride != step:
      return False
    step *= n
  return True


def write(
  path: pathlib.Path, tensors: Mapping[str, Stored], wrap: str = 'state_dict'
) -> None:
  """{wrap: tensors} as torch.load(weights_only=True) reads it.

  One tensor at a time is in memory; the file appears when it is whole.
  """
  path = pathlib.Path(path)
  views = {}
  for i, (name, t) in enumerate(tensors.items()):
    if t.dtype not in pickled.DTYPES.values():
      raise UserError(f'{name} is of dtype {t.dtype}, which {path.name} cannot '
                      'hold; choose another with --dtype.')
    views[name] = pickled.Tensor(
      pickled.Storage(t.dtype, str(i), math.prod(t.shape)), 0, t.shape,
      tuple(math.prod(t.shape[axis + 1:]) for axis in range(len(t.shape))))
  partial = path.with_name(f'{path.name}.partial')
  try:
    with open(partial, 'wb') as file, zipfile.ZipFile(file, 'w') as archive:
      _add(file, archive, 'data.pkl', pickled.dumps(views, wrap))
      _add(file, archive, 'byteorder', sys.byteorder.encode())
      for name, t in tensors.items():
        data = np.ascontiguousarray(t.read()).reshape(-1).view(np.uint8)
        _add(file, archive, f'data/{views[name].storage.key}', data)
      _add(file, archive, 'version', b'3\n')
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def _add(file, archive, name, data):
  """A member whose bytes begin at a multiple of 64."""
  info = zipfile.ZipInfo(f'archive/{name}')
  info.file_size = len(data)
  wide = len(data) > _ZIP64
  header = _LOCAL_HEADER + len(info.filename) + 4 + (20 if wide else 0)
  padding = -(file.tell() + header) % _ALIGNMENT
  info.extra = struct.pack('<2sH', b'FB', padding) + b'Z' * padding
  with archive.open(info, 'w', force_zip64=wide) as member:
    member.write(data)
