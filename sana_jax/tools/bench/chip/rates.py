"""Device rates: a large copy, and matmuls of each dtype.

Data are random: with ones or zeros, a chip draws less power and is faster than
in a model.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from sana_jax.analysis import device
from sana_jax.tools.bench.chip.sizes import Sizes
from sana_jax.tools.bench.chip.stages import Row

TYPES = {'bf16': 'bfloat16', 'int8': 'int8', 'fp8': 'float8_e4m3fn'}


def measure(
  budget: Callable[[], float], sizes: Sizes, earlier: Mapping[str, Any]
) -> Iterator[Row]:
  """Yields the copy's bytes per second, then each matmul's FLOP/s."""
  del budget, earlier
  yield 'copy', {'rate': device.copy_rate(), 'unit': 'GB/s'}
  for name, dtype in TYPES.items():
    try:
      rate = device.product_rate(dtype, sizes.product)
    except (jax.errors.JaxRuntimeError, NotImplementedError, TypeError) as e:
      yield name, {'problem': (str(e).splitlines() or ['?'])[0][:200]}
    else:
      yield name, {'rate': rate, 'unit': 'TFLOP/s'}


def ceilings(earlier: Mapping[str, Any]) -> dict[str, float]:
  """Rates for a plan; {} if they were not measured."""
  rows = earlier.get('device rates', {})
  found = {
    key: rows.get(name, {}).get('rate')
    for key, name in (('memory_rate', 'copy'), ('flops', 'bf16'))
  }
  return found if all(found.values()) else {}
