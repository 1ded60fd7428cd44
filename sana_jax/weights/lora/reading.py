"""Reads adapter files of any spelling, strictly: see spelling.py.

Each tensor must be used. A file with keys that the model or this reader does
not have is refused, where diffusers leaves them out.
"""

from collections.abc import Mapping, Sequence
import math
import os
import pathlib
from typing import Any

import flax.linen as nn
import numpy as np

from sana_jax.errors import did_you_mean, UserError
from sana_jax.paths import expanded
from sana_jax.printable import counted, printable
from sana_jax.weights import safetensors_files
from sana_jax.weights.lora import lokr, names, settings, spelling
from sana_jax.weights.lora.lows import Low, Lows
from sana_jax.weights.lora.writing import FILE
from sana_jax.weights.tensors import Stored
from sana_jax.weights.transforms import LINEAR

_LISTED = 5  # Keys in an error.
_PICKLES = ('.pth', '.pt', '.bin', '.ckpt', '.pkl')
_PEFT = ('adapter_model.safetensors', 'adapter_config.json')


def read(path: os.PathLike | str, module: nn.Module) -> Lows:
  """Updates of a transformer's layers, from a file or a folder with one.

  Raises UserError for an unknown key, a layer that the model does not have, or
  shapes that do not fit.
  """
  path = find(path)
  try:
    return _read(path, module)
  except UserError as e:
    raise e if str(path) in str(e) else e.within(str(path)) from e


def find(path: os.PathLike | str) -> pathlib.Path:
  """The adapter file of a path: itself, or the one in a folder."""
  path = pathlib.Path(expanded(str(path)))
  if not path.is_dir():
    if not path.exists():
      raise UserError(
        f'{path} is missing; give a .safetensors file or a folder with one.',
        key='lora',
        value=str(path),
        allowed='existing files',
      )
    if path.suffix.lower() in _PICKLES:
      raise UserError(
        f'{path} is a pickle, which can contain code and is not read as an '
        'adapter; give a .safetensors file.',
        key='lora',
        value=str(path),
        allowed='*.safetensors',
      )
    return path
  for name in (FILE, _PEFT[0]):
    if (path / name).is_file():
      return path / name
  found = sorted(path.glob('*.safetensors'))
  if len(found) != 1:
    raise UserError(
      f'{path} has {counted(len(found), "file")} *.safetensors; name the file '
      'of the adapter.',
      key='lora',
      value=str(path),
      allowed=[file.name for file in found],
    )
  return found[0]


def _read(path, module):
  tensors = safetensors_files.read_file(path)
  about = settings.of_file(safetensors_files.metadata(path), path)
  groups = _groups(tensors, spelling.names_of(module))
  shapes = _weights(module)
  out = {}
  for layers, parts in groups.items():
    lows = _lows(layers, parts, about, shapes[layers[0]][0])
    for layer, low in zip(layers, lows, strict=True):
      if layer in out:
        raise _error(f'{layer} is there twice', layer)
      out[layer] = _fitted(layer, low, *shapes[layer])
  if not out:
    raise _error('The file has no tensor', 'tensors')
  return out


def _groups(
  tensors: Mapping[str, Stored], known: spelling.Names
) -> dict[tuple[str, ...], dict[str, Stored]]:
  """Tensors of each layer, or fused layers, by their role."""
  groups, unknown = {}, []
  for key, tensor in tensors.items():
    part = spelling.parsed(key)
    layers = part and known.find(part)
    if not layers:
      unknown.append(key)
      continue
    of_layer = groups.setdefault(layers, {})
    if part.role in of_layer:
      raise _error(f'{printable(key, 200)} is there twice', key)
    of_layer[part.role] = tensor
  if unknown:
    raise _leftover(tensors, unknown, known)
  return groups


def _leftover(tensors, unknown, known):
  """Error for keys that cannot be used, and the nearest layer's name."""
  part = spelling.parsed(unknown[0])
  near = ''
  if part:
    choices = known.flat if part.flat else known.dotted
    near = did_you_mean(part.name, list(choices), cutoff=0.8)
  shown = ', '.join(printable(key, 120) for key in unknown[:_LISTED])
  more = f' and {len(unknown) - _LISTED} more' * (len(unknown) > _LISTED)
  spelled = ' and '.join(spelling.spellings(tensors)) or 'unknown'
  return _error(
    f'{len(unknown)} of {counted(len(tensors), "key")} (spelling: {spelled}) '
    f'cannot be used with this model: {shown}{more}{near}',
    unknown,
    'layers of the model',
  )


def _lows(
  layers: Sequence[str],
  parts: Mapping[str, Stored],
  about: settings.Settings,
  shape: tuple[int, ...],
) -> list[Low]:
  """Updates of the layers of a fused projection, or of the only layer.

  `shape` is that of the weight of one of them.
  """
  parts = {k: _values(layers[0], x) for k, x in parts.items()}
  alpha = _alpha(layers[0], parts)
  magnitude = _magnitude(layers, parts)
  if lokr.is_lokr(parts):
    fused = shape[0] * len(layers), math.prod(shape[1:])
    down, up, rank = lokr.factors(layers[0], parts, fused)
    scale = 1.0 if alpha is None or rank is None else alpha / rank
  else:
    down, up = _pair(layers, parts)
    about.check_rank(layers[0], len(down))
    scale = about.scale(layers[0], len(down))
    if alpha is not None:
      scale = alpha / len(down)
  if len(up) % len(layers):
    raise _error(
      f'{layers[0]}: B {up.shape} is not of {len(layers)} layers', layers[0]
    )
  cut = lambda x: (
    [None] * len(layers) if x is None else np.split(x, len(layers))
  )
  return [
    Low(down, up, scale, magnitude)
    for up, magnitude in zip(cut(up), cut(magnitude), strict=True)
  ]


def _values(layer, tensor):
  """A tensor in float32; UserError if it has NaN or infinity."""
  with np.errstate(over='ignore'):  # Of float64; not finite, then.
    found = np.asarray(tensor.read(), np.float32)
  if not np.isfinite(found).all():
    raise _error(
      f'{layer} has values that are not finite', layer, 'finite numbers'
    )
  return found


def _alpha(layer, parts) -> float | None:
  """The scale `alpha`, removed from the parts; None without one."""
  alpha = parts.pop('alpha', None)
  if alpha is None:
    return None
  if alpha.size != 1 or not settings.ALPHA.test(float(alpha.reshape(()))):
    raise _error(
      f'{layer} has an alpha of the shape {alpha.shape}, which must be '
      f'{settings.ALPHA.allowed}',
      layer,
      settings.ALPHA.allowed,
    )
  return float(alpha.reshape(()))


def _pair(layers, parts):
  """(down, up) of LoRA, whose ranks agree."""
  if missing := {'down', 'up'} - set(parts):
    raise _error(f'{layers[0]} has no {missing.pop()}', layers[0])
  if unused := set(parts) - {'down', 'up'}:
    raise _error(f'{layers[0]} has {", ".join(sorted(unused))} too', layers[0])
  down, up = parts['down'], parts['up']
  if down.ndim < 2 or up.ndim < 2 or len(down) != up.shape[1] or not len(down):
    raise _error(
      f'{layers[0]}: the ranks of A {down.shape} and B {up.shape} differ',
      layers[0],
      'equal ranks',
    )
  return down, up


def _magnitude(layers, parts):
  """DoRA's magnitude (out,), removed from the parts; None without one."""
  found = [parts.pop(k, None) for k in ('magnitude', 'dora_scale')]
  magnitude = next((x for x in found if x is not None), None)
  if magnitude is None:
    return None
  of_inputs = magnitude.shape[:1] == (1,) and magnitude.size > 1
  if found[1] is not None and of_inputs:
    raise _error(
      f'{layers[0]} has a dora_scale {magnitude.shape} of its inputs; only one '
      'of its outputs is supported',
      layers[0],
      '(out, 1)',
    )
  return magnitude.reshape(-1)


def _weights(module):
  """(shape of the weight, layer) of each layer by its name in diffusers."""
  return {
    layer.key.format(i=i): (weight_shape(layer), layer)
    for layer in names.layers(module).values()
    for i in range(layer.depth or 1)
  }


def weight_shape(layer: names.Layer) -> tuple[int, ...]:
  """Shape of the layer's weight in diffusers."""
  kernel = layer.shape if layer.depth is None else layer.shape[1:]
  return layer.transform.save(np.broadcast_to(np.float32(0), kernel)).shape


def _fitted(key: str, low: Low, shape: tuple[int, ...], layer) -> Low:
  """The update in the layout of its layer; UserError for another size."""
  down, up, rank = low.down, low.up, low.rank
  wanted = (rank, *shape[1:]), (shape[0], rank)
  fits = (
    down.shape in (wanted[0], wanted[0][:2], (*wanted[0], 1, 1))
    and down.size == np.prod(wanted[0])
    and up.shape in (wanted[1], (*wanted[1], 1, 1))
    and (low.magnitude is None or low.magnitude.shape == shape[:1])
  )
  if not fits:
    sizes = f'A {down.shape}, B {up.shape}'
    if low.magnitude is not None:
      sizes += f', magnitude {low.magnitude.shape}'
    raise _error(
      f'{key} is of another size: {sizes}, where A {wanted[0]} and B '
      f'{wanted[1]} are needed',
      key,
      wanted,
    )
  ends = () if layer.transform is LINEAR else (1, 1)
  return low._replace(
    down=down.reshape(wanted[0]), up=up.reshape((*wanted[1], *ends))
  )


def _error(text: str, value: Any, allowed: Any = None) -> UserError:
  return UserError(f'{text}.', key='lora', value=value, allowed=allowed)
