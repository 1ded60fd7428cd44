"""What this device is and can do at best: measured, or by its data sheet."""

import functools
import os
import platform
import time

import jax
import jax.numpy as jnp

from sana_jax.analysis import chips


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
  """Bytes a second of a large copy, both those read and those written.

  It is made in place: where a copy has new memory each time, a CPU's system
  first makes pages of it, which takes twelve times as long.
  """
  size = 2**28 if jax.default_backend() == 'cpu' else 2**31
  turned = jax.jit(jnp.negative, donate_argnums=0)
  x = turned(jnp.ones(size // 4, jnp.float32))

  def turn():
    nonlocal x
    x = turned(x)
    return x
  return 2 * size / best_seconds(turn)


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
  return f'CPU ({platform.machine()}, {_cores()})'


def _cores():
  """'2 cores', or '1 of 2 cores' where this process may use so many."""
  total = os.cpu_count() or 1
  usable = len(os.sched_getaffinity(0)) if (
    hasattr(os, 'sched_getaffinity')) else total
  return f'{total} cores' if usable == total else f'{usable} of {total} cores'
