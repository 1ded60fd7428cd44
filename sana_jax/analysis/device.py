"""What this device is and can do at best: measured, or by its data sheet."""

from collections.abc import Callable
import functools
import math
import os
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp

from sana_jax.analysis import chips

# A measurement takes as many calls as fill this time: GPUs and TPUs are sent
# the next call before they have finished one.
SECONDS = 0.1


def peak_flops(kind: str) -> float | None:
  """FLOP/s by the data sheet; None for a CPU or an unknown chip."""
  chip = chips.of_kind(kind)
  return chip.of_device().flops if chip else None


def matmul_rate(dtype: str) -> float:
  """FLOP/s of a large product."""
  return product_rate(dtype, 2048 if jax.default_backend() == 'cpu' else 8192)


def product_rate(dtype: str, n: int) -> float:
  """FLOP/s of a product of two n x n matrices of random numbers.

  Of ones or zeros, a GPU draws less power and multiplies faster. Whole numbers
  are summed in int32, those of 8 bits in bfloat16.
  """
  x, y = (_random(key, dtype, n) for key in jax.random.split(jax.random.key(0)))
  kind = jnp.dtype(dtype)
  out = 'bfloat16' if kind.itemsize == 1 else dtype
  if jnp.issubdtype(kind, jnp.integer):
    out = 'int32'
  product = functools.partial(
    jax.lax.dot_general,
    dimension_numbers=(((1,), (1,)), ((), ())),
    preferred_element_type=out,
  )
  run = jax.jit(product)
  seconds = timer(functools.partial(run, x, y))
  return 2 * n**3 / min(seconds() for _ in range(5))


def _random(key, dtype, n):
  if jnp.issubdtype(dtype, jnp.integer):
    return jax.random.randint(key, (n, n), -127, 127, dtype)
  return jax.random.normal(key, (n, n)).astype(dtype)


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


def timer(run: Callable[[], Any]) -> Callable[[], float]:
  """A function that gives the seconds of one call, as a mean over many.

  `run` may return before the device is done.
  """
  jax.block_until_ready(run())
  start = time.perf_counter()
  jax.block_until_ready(run())
  count = max(1, math.ceil(SECONDS / (time.perf_counter() - start)))

  def seconds():
    start = time.perf_counter()
    for _ in range(count):
      out = run()
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / count

  return seconds


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
  usable = total
  if hasattr(os, 'sched_getaffinity'):
    usable = len(os.sched_getaffinity(0))
  return f'{total} cores' if usable == total else f'{usable} of {total} cores'
