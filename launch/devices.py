"""JAX setup of a command, before devices are initialised."""

import argparse
import contextlib
import os
import re

from sana_jax.errors import UserError
from sana_jax.launch.flags import CPU_DEVICES, refused, whole
from sana_jax.paths import expanded


def add_device_flags(parser: argparse.ArgumentParser) -> None:
  """Declares --cpu-devices and --distributed."""
  parser.add_argument(
    '--cpu-devices',
    type=whole(1, CPU_DEVICES),
    metavar='N',
    help='devices to split a CPU into (default: one a core, 8 at most)',
  )
  parser.add_argument(
    '--distributed',
    type=coordinator,
    nargs='?',
    const=(),
    metavar='HOST:PORT,COUNT,INDEX',
    help='one of several processes; found through SLURM, GKE or Cloud TPU, or '
    'at the address of process 0',
  )


def coordinator(value: str) -> tuple[str, int, int]:
  """Parses --distributed: coordinator address, process count, process index."""
  match = re.fullmatch(r'([!-~]+:[0-9]{1,5}),([0-9]{1,6}),([0-9]{1,6})', value)
  if match is None or not int(match[3]) < int(match[2]):
    raise refused(
      value, 'HOST:PORT,COUNT,INDEX with INDEX from 0 to COUNT - 1, or nothing'
    )
  return match[1], int(match[2]), int(match[3])


def join(processes: tuple = (), asks_to_stop: bool = True) -> None:
  """Connects to the other processes; raises UserError if there are none.

  `processes` is the address of the first, their number and this one's index.
  With `asks_to_stop`, JAX reports a SIGTERM to any of them, as a training loop
  requires; otherwise it ends the process, as usual.
  """
  import jax

  if not asks_to_stop:
    jax.config.update('jax_enable_preemption_service', False)

  from sana_jax.launch.config_files import brief

  try:
    jax.distributed.initialize(*processes)
  except (RuntimeError, ValueError) as e:
    raise UserError(
      f'--distributed found no other processes ({brief(e)}); start it under '
      'SLURM, GKE or Cloud TPU, or leave the flag out.',
      key='--distributed',
    ) from e


def configure(cpu_devices: int | None = None, most: int | None = None) -> None:
  """Creates a CPU device per core, so that small models run data-parallel.

  `most` is the maximum of useful devices.

  XLA's own threads cost the small operations of small models more time than
  they save. Compiled programs are cached on disk.
  If JAX is initialised already, its devices are unchanged.
  """
  import jax

  from sana_jax import compilation_cache

  with contextlib.suppress(RuntimeError):  # JAX's word for "in use already".
    jax.config.update(
      'jax_num_cpu_devices',
      cpu_devices or min(os.cpu_count() or 1, 8, most or 8),
    )
  if jax.config.jax_compilation_cache_dir:
    compilation_cache.discard_corrupt_entries()
  else:
    compilation_cache.enable(
      expanded('~/.cache/sana_jax/compiled'), at_least_seconds=0
    )


def none_but_cpu() -> None:
  """Restricts JAX to the CPU backend, so that no accelerator is initialised."""
  import jax

  with contextlib.suppress(RuntimeError):  # JAX's word for "in use already".
    jax.config.update('jax_platforms', 'cpu')
