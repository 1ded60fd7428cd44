"""What this device is and can do at best: measured, or by its data sheet."""

import functools
import os
import platform
import time

import jax
import jax.numpy as jnp

from sana_jax.sharding import chips


def peak_flops(kind: str) -> float | None:
  """FLOP/s by the data sheet; None for a CPU or an unknown chip."""
  chip = chips.of_kind(kind)
  return chip.of_device().flops if chip else None


def matmul_rate(dtype: str) -> float:
  """FLOP/s of a large product."""
  n = 2048 if jax.default_backend() == 'cpu' else 8192
  x = jnp.ones((n, n), dtype)
  return 2 * n**3 / best_seconds(jax.jit(lambda x: x @ x), x)


def copy_rate() -> float:
  """Bytes a second of a large copy, both those read and those written."""
  size = 2**28 if jax.default_backend() == 'cpu' else 2**31
  x = jnp.ones(size // 4, jnp.float32)
  return 2 * size / best_seconds(jax.jit(jnp.negative), x)


def best_seconds(f, *args, calls: int = 5) -> float:
  """Of one call; noise only ever adds to a time."""
  jax.block_until_ready(f(*args))
  found = []
  for _ in range(calls):
    start = time.perf_counter()
    jax.block_until_ready(f(*args))
    found.append(time.perf_counter() - start)
  return min(found)


@functools.cache
def name() -> str:
  """Its kind; of a CPU, also how many cores there are."""
  kind = jax.devices()[0].device_kind
  if kind != 'cpu':
    return kind
  return f'CPU ({platform.machine()}, {os.cpu_count()} cores)'
