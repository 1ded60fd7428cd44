"""Measured tile sizes; a backend's default where there are none.

`tuned/DEVICE.json` is written by `sana-jax bench kernels --tune`:

  {"relu_linear_attention": {"mosaic_gpu": {
    "backward bfloat16 16x1024x128x32": {"programs": 264, "stages": 2}}}}

A shape represents all whose sizes round up to the same powers of two.
"""

from collections.abc import Iterator, Mapping
import contextlib
import functools
import json
import pathlib
import re
from typing import Any

from absl import logging
import jax

FOLDER = pathlib.Path(__file__).with_name('tuned')
# ((backward, ((name, value), ...)), ...): part of the cache key of `jit`.
_overrides = jax.make_user_context(())


def choose(
  op: str,
  backend: str,
  backward: bool,
  shape: tuple[int, ...],
  dtype: Any,
  **usual: int,
) -> dict[str, int]:
  """Returns `usual`, updated with measured values for such an array."""
  overrides = dict(_overrides.value).get(backward)
  if overrides is not None:
    overrides = dict(overrides)
  else:
    overrides = (
      table(device_kind())
      .get(op, {})
      .get(backend, {})
      .get(bucket(backward, shape, dtype), {})
    )
  return {name: overrides.get(name, value) for name, value in usual.items()}


def bucket(backward: bool, shape: tuple[int, ...], dtype: Any) -> str:
  """Key of a shape: sizes rounded up to powers of two."""
  sizes = 'x'.join(str(1 << max(0, n - 1).bit_length()) for n in shape)
  direction = 'backward' if backward else 'forward'
  return f'{direction} {jax.numpy.dtype(dtype).name} {sizes}'


@functools.cache
def table(kind: str) -> Mapping[str, Any]:
  """Measurements of a kind of device; empty if there are none."""
  path = FOLDER / f'{file_name(kind)}.json'
  if not path.is_file():
    return {}
  try:
    return checked(json.loads(path.read_text('utf-8')))
  # Tile sizes affect only the speed.
  except (OSError, ValueError, RecursionError) as error:
    logging.warning(
      '%s cannot be read (%s): kernels use default tile sizes.', path, error
    )
    return {}


def checked(table: Any) -> Mapping[str, Any]:
  """Returns `table`; ValueError if not {op: {backend: {array: values}}}."""
  levels = [table]
  for _ in range(3):
    if not all(isinstance(level, dict) for level in levels):
      raise ValueError('it is not a table of tile sizes')
    levels = [value for level in levels for value in level.values()]
  for values in levels:
    if not isinstance(values, dict) or not all(
      type(x) is int and 0 < x < 2**31 for x in values.values()
    ):
      raise ValueError('a tile size is not a positive number')
  return table


def file_name(kind: str) -> str:
  """File name of a device kind: 'NVIDIA H200' -> 'nvidia-h200'."""
  return re.sub(r'[^a-z0-9]+', '-', kind.lower()).strip('-')


def device_kind() -> str:
  """Device kind of the current mesh, maybe absent, else of a local device."""
  mesh = jax.sharding.get_abstract_mesh()
  device = getattr(mesh, 'abstract_device', None)
  return device.device_kind if device else jax.devices()[0].device_kind


@contextlib.contextmanager
def using(backward: bool, **values: int) -> Iterator[None]:
  """Makes passes traced inside use these values instead of measured ones."""
  both = dict(_overrides.value) | {backward: tuple(sorted(values.items()))}
  with _overrides(tuple(sorted(both.items()))):
    yield
