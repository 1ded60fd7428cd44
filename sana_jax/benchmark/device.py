"""What this device is and can do at best: measured, or by its data sheet."""

import functools
import os
import platform
import time

import jax
import jax.numpy as jnp

# Dense bf16 FLOP/s of one of JAX's devices, by `device_kind`: Google's pages on
# its TPUs; NVIDIA's data sheets, whose headlines count sparse products double.
# A TPU7x (2307e12 a chip) is two devices. Some kinds have two names.
_PEAK_FLOPS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12, 'TPU v5e': 197e12,
  'TPU v5': 459e12, 'TPU v5p': 459e12,
  'TPU v6 lite': 918e12, 'TPU v6e': 918e12,
  'TPU7x': 2307e12 / 2,
  'NVIDIA H100 80GB HBM3': 989e12,
  'NVIDIA H200': 989e12,
}


def peak_flops(kind: str) -> float | None:
  """FLOP/s by the data sheet; None for a CPU or an unknown chip."""
  return _PEAK_FLOPS.get(kind)


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
