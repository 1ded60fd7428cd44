"""Measured rates of the local devices, in place of data sheets.

A large matmul, a large copy and, with several devices, an all-reduce; stored by
device kind, for plans of pods of the same chips.
"""

from collections.abc import Mapping
import dataclasses
import datetime
import json
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax import files
from sana_jax.analysis import chips, device
from sana_jax.analysis.chips import Chip
from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.printable import counted
from sana_jax.sharding.mesh import make_mesh

FILE = '~/.cache/sana_jax/ceilings.json'
# Key -> (name, unit, size of the unit).
_RATES = {
  'flops': ('matmul', 'TFLOP/s', 1e12),
  'memory_rate': ('copy', 'GB/s', 1e9),
  'link_rate': ('sum over devices', 'GB/s', 1e9),
}


def measure(dtype: str = 'bfloat16') -> dict[str, Any]:
  """Rates of one device: FLOP/s, and bytes per second of memory and links."""
  count = jax.device_count()
  found = {
    'flops': device.matmul_rate(dtype),
    'memory_rate': device.copy_rate(),
    'date': datetime.date.today().isoformat(),
    'devices': count,
  }
  if count > 1:
    found['link_rate'] = all_reduce_rate()
  return found


def all_reduce_rate() -> float:
  """Bytes per second that leave a device in a ring all-reduce over all."""
  count = jax.device_count()
  mesh = make_mesh({'data': count}, jax.devices())
  size = 2**24 if jax.default_backend() == 'cpu' else 2**28
  split = jax.sharding.NamedSharding(mesh, jax.P('data'))
  x = jax.device_put(np.ones((count, size // 4), np.float32), split)
  everywhere = jax.sharding.NamedSharding(mesh, jax.P())
  total = jax.jit(lambda x: jnp.sum(x, 0), out_shardings=everywhere)
  seconds = device.best_seconds(total, x)
  return 2 * (count - 1) / count * size / seconds


def write(kind: str, found: Mapping[str, Any]) -> pathlib.Path:
  """Stores the rates of a kind of device."""
  path = pathlib.Path(expanded(FILE))
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(
    path, json.dumps({**read(), kind: dict(found)}, indent=1) + '\n'
  )
  return path


def read() -> dict[str, Any]:
  """Stored rates by kind; empty if the file is missing or invalid."""
  try:
    found = files.read_json(pathlib.Path(expanded(FILE)))
  except (FileNotFoundError, UserError):
    return {}
  return {kind: rates for kind, rates in found.items() if _are_rates(rates)}


def _are_rates(found):
  """Whether `found` has the form that `measure` returns."""
  return (
    isinstance(found, dict)
    and {'flops', 'memory_rate'} <= set(found)
    and type(found.get('devices')) is int
    and isinstance(found.get('date'), str)
    and all(
      type(found[key]) in (int, float) and 0 < found[key] < 1e30
      for key in _RATES
      if key in found
    )
  )


def measured(chip: Chip) -> tuple[Chip, str]:
  """(chip, date) with measured rates; '' for the date of a data sheet's."""
  kept = read()
  for kind in chip.kinds:
    if kind in kept:
      found = kept[kind]
      rates = {key: float(found[key]) for key in _RATES if key in found}
      rates = {key: rate * chip.devices for key, rate in rates.items()}
      return dataclasses.replace(chip, **rates), found['date']
  return chip, ''


def device_of(kind: str, found: Mapping[str, Any]) -> Chip:
  """A device of any kind, by measured rates alone."""
  rates = dict.fromkeys(('link_rate', 'network_rate'), math.inf)
  rates |= {key: found[key] for key in _RATES if key in found}
  return Chip(kind, (kind,), memory=math.inf, usable=math.inf, links=0, **rates)


def text(kind: str, found: Mapping[str, Any]) -> str:
  """Table of the rates, beside the data sheet's where one is known."""
  chip = chips.of_kind(kind)
  sheet = chip.of_device() if chip else None
  lines = [f'{kind}, {counted(found["devices"], "device")}, {found["date"]}']
  for key, (name, unit, size) in _RATES.items():
    if key in found:
      line = f'  {name}: {found[key] / size:.4g} {unit}'
      if sheet:
        line += f' ({found[key] / getattr(sheet, key):.0%} of the data sheet)'
      lines.append(line)
  return '\n'.join(lines)
