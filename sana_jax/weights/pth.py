"""Checkpoints of torch (.pth, .pt, .bin), without torch.

Unlike torch.load, reading is lazy, and never runs code of the file
(safe_pickle.py). Only the model's tensors of a trainer's checkpoint are read;
its other content is logged. The file formats are those of pth_zip.py and,
before torch 1.6, pth_legacy.py.
"""

from collections.abc import Iterable, Mapping
import itertools
import math
import pathlib
import struct
from typing import Any
import zipfile

from absl import logging
import numpy as np

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.printable import counted, printable
from sana_jax.weights import (
  pickled,
  pickling,
  pth_legacy,
  pth_zip,
  ranges,
  wrapped,
)
from sana_jax.weights.safe_pickle import described
from sana_jax.weights.tensors import is_name, MOST_TENSORS, Stored

_SHOWN = 10  # Names of one kind in a message.
_MOST_COPIES = 8  # Bytes of all tensors, which may overlap, per byte of a file.


def read(path: pathlib.Path, *, ema: bool = False) -> dict[str, Stored]:
  """Tensors of a model by name, from an entry of wrapped.KEYS or the top level.

  Entries that are not tensors are skipped and listed in one log line.

  Args:
    ema: whether to read the EMA weights (wrapped.EMA_KEYS) instead.

  Raises:
    UserError: the file is damaged, of another kind, or without tensors.
  """
  path = pathlib.Path(path)
  checkpoint, source = _open(path)
  key, model, rest = _model(path, checkpoint.pickle, ema)
  tensors, others = _separated(model)
  if not tensors:
    raise UserError(
      f'{path}: its {key} contains no tensors but '
      f'{_contents(model)}; {_not_run(checkpoint.pickle)}.',
      key=key,
      value=path,
      allowed='tensors',
    )
  if len(tensors) > MOST_TENSORS:
    raise UserError(
      f'{path} contains {len(tensors)} tensors; {MOST_TENSORS} are allowed.',
      key='tensors',
      value=len(tensors),
      allowed=f'{MOST_TENSORS} or fewer',
    )
  out = {
    name: _stored(source, checkpoint, name, tensor)
    for name, tensor in tensors.items()
  }
  nbytes = sum(t.nbytes for t in out.values())
  if nbytes > _MOST_COPIES * source.size:
    raise UserError(
      f'{path} is damaged: its tensors have over {_MOST_COPIES} '
      'times the bytes of the file; download the file again.',
      key='tensors',
      value=nbytes,
      allowed=f'{_MOST_COPIES * source.size} bytes or fewer',
    )
  if left_out := rest | others:
    logging.warning(
      '%s: read %s of its %s; skipped %s; %s.',
      path,
      counted(len(out), 'tensor'),
      key,
      _contents(left_out),
      _not_run(checkpoint.pickle),
    )
  return out


def _model(path, content, ema):
  """Key of the model, its entry, and the other entries."""
  whole = content.value if isinstance(content.value, dict) else {}
  # A model may have a tensor with the name of an entry.
  key = wrapped.key_of([k for k in whole if isinstance(whole[k], dict)], ema)
  if key:
    return key, whole[key], {k: x for k, x in whole.items() if k != key}
  if ema:
    raise UserError(
      f'{path} has no EMA weights ({", ".join(wrapped.EMA_KEYS)}) but '
      f'{_contents(content.value)}; omit --ema.',
      key='--ema',
      value=True,
      allowed='false',
    )
  if not _separated(whole)[0]:
    raise UserError(
      f'{path} neither has nor is a state_dict: it contains '
      f'{_contents(content.value)}; {_not_run(content)}.',
      value=path,
      allowed=wrapped.KEYS,
    )
  return 'entries', whole, {}


def _separated(model):
  """Tensors of a model, and its other entries."""
  entries = model if isinstance(model, dict) else {}
  tensors = {
    name: x
    for name, x in entries.items()
    if isinstance(x, pickled.Tensor) and is_name(name)
  }
  return tensors, {k: x for k, x in entries.items() if k not in tensors}


def _not_run(content):
  names = f', not even {_listed(content.names)}' if content.names else ''
  return f'none of its code was run{names}'


def _contents(value: Any) -> str:
  """Description of the entries of a dict, or of another value."""
  if not isinstance(value, dict):
    return described(value)
  shown = (
    f'{printable(key, 100)} ({described(x)})'
    for key, x in itertools.islice(value.items(), _SHOWN)
  )
  return _listed(shown, len(value)) or 'nothing'


def _listed(names: Iterable[str], count: int = 0) -> str:
  names = list(names)
  more = f' and {count - _SHOWN} more' if count > _SHOWN else ''
  return ', '.join(names[:_SHOWN]) + more


def _open(path):
  try:
    with files.open_regular(path) as file:
      source = ranges.checked(path, file)
      start = file.read(len(pth_legacy.MAGIC))
      if start == pth_legacy.MAGIC:
        return pth_legacy.read(file), source
      if not start.startswith(b'PK'):
        raise UserError(
          f'{path} is not a torch checkpoint (no zip file); give another file.',
          value=path,
          allowed='zip files of torch',
        )
      return pth_zip.read(file), source
  except UserError:
    raise
  except pth_zip.TorchScript:
    raise UserError(
      f'{path} is a TorchScript archive, which is a program; save its tensors '
      "with torch: torch.save(torch.jit.load(FILE, 'cpu').state_dict(), NEW).",
      value=path,
      allowed='state dicts',
    ) from None
  except FileNotFoundError:
    raise UserError(
      f'There is no file {path}; check the name.',
      value=path,
      allowed='existing files',
    ) from None
  except (
    OSError,
    ValueError,
    zipfile.BadZipFile,
    struct.error,
    NotImplementedError,
    EOFError,
  ) as e:
    raise UserError(
      f'{path} cannot be read ({printable(e, 300)}); it may be '
      'damaged or truncated: download it again.',
      key=getattr(e, 'part', ''),
      value=path,
      allowed=getattr(e, 'allowed', None),
    ) from e


def _stored(source, checkpoint, name, tensor):
  """Lazy tensor; raises UserError if it exceeds its storage."""
  storage, offset, shape, strides = tensor
  position, size = checkpoint.places.get(storage.key, (0, -1))
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  key = printable(repr(storage.key), 100)
  if size < 0:
    problem = f'its storage {key} is missing'
    value, allowed = storage.key, list(checkpoint.places)
  elif size != storage.count * storage.dtype.itemsize:
    problem = (
      f'its storage has {size} bytes, not {storage.count} {storage.dtype}'
    )
    value, allowed = size, f'{storage.count * storage.dtype.itemsize} bytes'
  elif 0 not in shape and last >= storage.count:
    problem = f'it reads element {last} of {storage.count}'
    value, allowed = last, f'below {storage.count}'
  elif math.prod(shape) > storage.count:
    problem = f'{shape} from {storage.count} elements'
    value, allowed = shape, f'{storage.count} elements or fewer'
  else:
    return Stored(
      shape,
      storage.dtype,
      lambda start, stop: _rows(
        source, checkpoint.swapped, tensor, position, start, stop
      ),
    )
  raise UserError(
    f'{source.path}: {name} is damaged ({problem}); download the file again.',
    key=name,
    value=value,
    allowed=allowed,
  )


def _rows(source, swapped, tensor, position, start, stop):
  """Rows `start` to `stop`; reads only the bytes that they span."""
  dtype, shape, strides = tensor.storage.dtype, tensor.shape, tensor.strides
  first = tensor.offset
  if shape:
    rows = max(0, min(stop, shape[0]) - start)
    first, shape = first + start * strides[0], (rows, *shape[1:])
  if 0 in shape:
    return np.empty(shape, dtype)
  span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  flat = source.read(position + first * dtype.itemsize, span, dtype, swapped)
  if _contiguous(shape, strides):
    return flat.reshape(shape)
  return np.lib.stride_tricks.as_strided(
    flat, shape, [s * dtype.itemsize for s in strides]
  ).copy()


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
  """Writes {wrap: tensors} for torch.load(weights_only=True), atomically.

  Only one tensor at a time is in memory.
  """
  path = pathlib.Path(path)
  views = {}
  for i, (name, t) in enumerate(tensors.items()):
    if t.dtype not in pickled.DTYPES.values():
      raise UserError(
        f'{name} is of dtype {t.dtype}, which {path.name} cannot '
        'contain; choose another with --dtype.',
        key='--dtype',
        value=t.dtype,
        allowed=list(pickled.DTYPES.values()),
      )
    views[name] = pickled.Tensor(
      pickled.Storage(t.dtype, str(i), math.prod(t.shape)),
      0,
      t.shape,
      tuple(math.prod(t.shape[axis + 1 :]) for axis in range(len(t.shape))),
    )
  pth_zip.write(
    path,
    pickling.dumps(views, wrap),
    (
      (view.storage.key, np.ascontiguousarray(tensors[name].read()))
      for name, view in views.items()
    ),
  )
