"""One train step of a published size, kernels off or on."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from sana_jax import config as configs
from sana_jax import kernels
from sana_jax.analysis import ceilings, hlo, work
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.bench import timing
from sana_jax.tools.bench.chip import rates, tiles
from sana_jax.tools.bench.chip.sizes import Sizes, Step
from sana_jax.tools.bench.chip.stages import Row
from sana_jax.tools.bench.step import read
from sana_jax.tools.plan import steps

_COMPRESSION = 32  # Of all published autoencoders.


def measure(
  budget: Callable[[], float],
  sizes: Sizes,
  earlier: Mapping[str, Any],
  model: str,
  side: str,
) -> Iterator[Row]:
  """Yields the program's memory, time and profile."""
  size, backends = sizes.steps[model], timing.backends(side)
  mesh = make_mesh({'data': 1}, jax.devices()[:1])
  with jax.set_mesh(mesh), kernels.prefer(**backends), tiles.in_use(earlier):
    config, program, step, compiled = _fitting(size, sizes.dtype, mesh)
    yield 'program', compiled | _planned(step, program, config, mesh, earlier)
    repeats = sizes.rounds if budget() > 20 else 1
    found = timing.measure({side: step}, program, repeats)
    yield (
      'time',
      _speed(config, min(found.seconds[side])) | {'peak_bytes': found.bytes},
    )
    if budget() > 0:
      yield 'profile', _shares(timing.profile(step, found.state, found.rest)[1])


def config_of(size: Step, dtype: str, remat: str) -> ConfigDict:
  """Training config of a size."""
  config = configs.train('sana').unlock()
  config.model.update(configs.SANA_SIZES[size.model], remat=remat)
  config.model.update(size.changes, sample_size=size.size // _COMPRESSION)
  config.update(batch_size=size.batch, dtype=dtype)
  config.optimizer.name = 'came'
  return config


def _fitting(size, dtype, mesh):
  """(config, program, step, row) of the first remat policy that fits."""
  limit = (jax.devices()[0].memory_stats() or {}).get('bytes_limit')
  for remat in size.remats:
    config = config_of(size, dtype, remat)
    program = steps.make(config, mesh)
    step, seconds = timing.compiled(program)
    memory = step.memory_analysis()
    needed = (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      - memory.alias_size_in_bytes
      + memory.temp_size_in_bytes
    )
    if limit is None or needed < limit:
      break
  return (
    config,
    program,
    step,
    {
      'model': size.model,
      'size': size.size,
      'batch': size.batch,
      'remat': remat,
      'dtype': dtype,
      'compile_seconds': seconds,
    },
  )


def _planned(step, program, config, mesh, earlier):
  """Plan's prediction at the measured rates."""
  found = read(step, program, config, mesh)
  at_rates = rates.ceilings(earlier) or ceilings.measure(config.dtype)
  calls = [
    s.times
    for s in hlo.parse(step.as_text()).steps()
    if work.is_kernel(s.instruction)
  ]
  return {
    'predicted_seconds': found.seconds(at_rates).total,
    'needed_bytes': found.needed,
    'kernel_calls': sum(calls),
  }


def _speed(config, seconds):
  return {
    'seconds': seconds,
    'images_per_second': config.batch_size / seconds,
    'flops': steps.model_flops(config),
  }


def _shares(found):
  """Shares of the device's profiled time."""
  total = sum(found.times.values())
  return {
    **{
      f'{kind} share': seconds / total for kind, seconds in found.times.items()
    },
    'launches': found.launches,
  }
