"""Sets JAX up for a command, before it looks for devices."""

import argparse
import contextlib
import os
import re

from sana_jax.errors import UserError
from sana_jax.launch.flags import CPU_DEVICES, refused, whole
from sana_jax.paths import expanded


def add_device_flags(parser: argparse.ArgumentParser) -> None:
  """--cpu-devices and --distributed."""
  parser.add_argument(
    '--cpu-devices',
    type=whole(1, CPU_DEVICES),
    metavar='N',
    help='devices to split a CPU into (default: one a core, 8 at most)',
  )
  parser.add_argument(
    '--distributed',
    type=meeting,
    nargs='?',
    const=(),
    metavar='HOST:PORT,COUNT,INDEX',
    help='one of several processes; found through SLURM, GKE or Cloud TPU, or '
    'at the address of process 0',
  )


def meeting(value: str) -> tuple[str, int, int]:
  """The type of --distributed: where processes meet, how many, which one."""
  match = re.fullmatch(r'([!-~]+:[0-9]{1,5}),([0-9]{1,6}),([0-9]{1,6})', value)
  if match is None or not int(match[3]) < int(match[2]):
    raise refused(
      value, 'HOST:PORT,COUNT,INDEX with INDEX from 0 to COUNT - 1, or nothing'
    )
  return match[1], int(match[2]), int(match[3])


def join(processes: tuple = (), asks_to_stop: bool = True) -> None:
  """Finds the other processes; UserError if there are none.

  `processes` is the address of the first, their number and this one's index.
  Who `asks_to_stop` hears of a SIGTERM to any of them, as a training loop does;
  else it ends the process at once, as usual.
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
      'SLURM, GKE or Cloud TPU, or leave the flag out.'
    ) from e


def configure(cpu_devices: int | None = None, most: int | None = None) -> None:
  """One CPU device a core, so that small models run in parallel over the batch.

  `most` is how many there is work for.

  XLA's own threads cost the small operations of small models more time than
  they save. Compiled programs are kept on disk.
  Where JAX is in use already, its devices stay as they are.
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
  """For a command that compiles for chips elsewhere: nothing looks for those
  that are here, nor says that there are none."""
  import jax

  with contextlib.suppress(RuntimeError):  # JAX's word for "in use already".
    jax.config.update('jax_platforms', 'cpu')
