"""Name and peak rates of this device, measured or by its data sheet."""

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
  """Data sheet FLOP/s; None for a CPU or an unknown chip."""
  chip = chips.of_kind(kind)
  return chip.of_device().flops if chip else None


def matmul_rate(dtype: str) -> float:
  """FLOP/s of a large matmul."""
  return product_rate(dtype, 2048 if jax.default_backend() == 'cpu' else 8192)


def product_rate(dtype: str, n: int) -> float:
  """FLOP/s of a matmul of two random n x n matrices.

  With ones or zeros, a GPU draws less power and multiplies faster. Integers
  are summed in int32, 8-bit floats in bfloat16.
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
  """Bytes per second of a large copy, read and written.

  The copy is in place: new memory costs page faults on a CPU, which take
  twelve times as long.
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
  """Returns a function that measures the mean seconds of a call.

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
  """Minimum seconds of a call, since noise only adds to a time."""
  jax.block_until_ready(f(*args))
  found = []
  for _ in range(calls):
    start = time.perf_counter()
    jax.block_until_ready(f(*args))
    found.append(time.perf_counter() - start)
  return min(found)


@functools.cache
def name() -> str:
  """Device kind; for a CPU with its number of cores."""
  kind = jax.devices()[0].device_kind
  if kind != 'cpu':
    return kind
  return f'CPU ({platform.machine()}, {_cores()})'


def _cores():
  """'2 cores', or '1 of 2 cores' if this process may use only one."""
  total = os.cpu_count() or 1
  usable = total
  if hasattr(os, 'sched_getaffinity'):
    usable = len(os.sched_getaffinity(0))
  return f'{total} cores' if usable == total else f'{usable} of {total} cores'
