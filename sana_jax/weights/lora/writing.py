"""Writes adapters as diffusers' `pytorch_lora_weights.safetensors`.

The header has peft's config of the adapters, with only those fields that every
version of peft has and that the tensors do not tell: a field that a reader does
not have is an error there.
"""

from collections import Counter
import json
import os
import pathlib
import re
from typing import Any

import flax.linen as nn
import numpy as np

from sana_jax.models.lora import Lora
from sana_jax.typing import Params
from sana_jax.weights import safetensors_files
from sana_jax.weights.lora import lows
from sana_jax.weights.lora.lows import Low, Lows
from sana_jax.weights.tensors import stored

FILE = 'pytorch_lora_weights.safetensors'
PREFIX = 'transformer.'
METADATA = 'lora_adapter_metadata'
_BLOCK = re.compile(r'transformer_blocks\.\d+\.')


def write(
  folder: os.PathLike, module: nn.Module, lora: Lora, factors: Params
) -> None:
  """Writes the factors of a run into a folder."""
  write_file(
    pathlib.Path(folder) / FILE, lows.of_factors(module, lora, factors)
  )


def write_file(path: os.PathLike, updates: Lows) -> None:
  """Writes updates of layers as one file, atomically."""
  tensors = {}
  for key, low in updates.items():
    tensors[f'{PREFIX}{key}.lora_A.weight'] = low.down
    tensors[f'{PREFIX}{key}.lora_B.weight'] = low.up
    if low.magnitude is not None:
      tensors[f'{PREFIX}{key}.lora_magnitude_vector'] = _magnitude(low)
  about = {f'{PREFIX}{name}': x for name, x in header(updates).items()}
  safetensors_files.write_file(
    pathlib.Path(path),
    {key: stored(np.ascontiguousarray(x)) for key, x in tensors.items()},
    {METADATA: json.dumps(about, indent=2, sort_keys=True)},
  )


def header(updates: Lows) -> dict[str, Any]:
  """Fields of peft's LoraConfig for these updates.

  The rank and alpha are those of most layers, and the others are patterns, by
  a name for all blocks where these are alike.
  """
  ranks = _by_name({key: low.rank for key, low in updates.items()})
  alphas = _by_name(
    {key: _number(low.scale * low.rank) for key, low in updates.items()}
  )
  rank, alpha = _most(ranks), _most(alphas)
  out = {
    'r': rank,
    'lora_alpha': alpha,
    'target_modules': sorted({_name(key) for key in updates}),
  }
  if others := {k: n for k, n in ranks.items() if n != rank}:
    out['rank_pattern'] = others
  if others := {k: a for k, a in alphas.items() if a != alpha}:
    out['alpha_pattern'] = others
  if any(low.magnitude is not None for low in updates.values()):
    out['use_dora'] = True
  return out


def _by_name(values):
  """Values by the name of a layer of all blocks, or by key if they differ."""
  groups = {}
  for key, value in values.items():
    groups.setdefault(_name(key), {})[key] = value
  out = {}
  for name, group in groups.items():
    alike = len(set(group.values())) == 1
    out |= {name: next(iter(group.values()))} if alike else group
  return out


def _name(key):
  return _BLOCK.sub('', key, count=1)


def _most(values):
  return Counter(values.values()).most_common(1)[0][0]


def _number(value):
  """The number, a whole one if it is one but for rounding."""
  near = round(value)
  return near if abs(value - near) < 1e-6 * max(1, near) else value


def _magnitude(low: Low):
  """The magnitude as peft stores it: (1, out, 1, 1) of a convolution."""
  shape = (-1,) if low.down.ndim == 2 else (1, -1, 1, 1)
  return np.reshape(low.magnitude, shape)
