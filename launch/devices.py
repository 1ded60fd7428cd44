"""Sets JAX up for a command, before it looks for devices."""

import argparse
import contextlib
import os

from sana_jax.errors import UserError
from sana_jax.launch.flags import whole


def add_device_flags(parser: argparse.ArgumentParser) -> None:
  """--cpu-devices and --distributed."""
  parser.add_argument(
    '--cpu-devices', type=whole(), metavar='N',
    help='devices to split a CPU into (default: one a core, 8 at most)')
  parser.add_argument(
    '--distributed', action='store_true',
    help='one of several processes; found through SLURM, GKE or Cloud TPU')


def join() -> None:
  """Finds the other processes; UserError if there are none."""
  import jax

  from sana_jax.launch.config_files import brief
  try:
    jax.distributed.initialize()
  except (RuntimeError, ValueError) as e:
    raise UserError(
      f'--distributed found no other processes ({brief(e)}); start it under '
      'SLURM, GKE or Cloud TPU, or leave the flag out.') from e


def configure(cpu_devices: int | None = None, most: int | None = None) -> None:
  """One CPU device a core, so that small models run in parallel over the batch.

  `most` is how many there is work for.

  XLA's own threads cost the small operations of small models more time than
  they save. Compiled programs are kept on disk.
  Where JAX is in use already, its devices stay as they are.
  """
  import jax
  with contextlib.suppress(RuntimeError):  # JAX's word for "in use already".
    jax.config.update(
      'jax_num_cpu_devices',
      cpu_devices or min(os.cpu_count() or 1, 8, most or 8))
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update(
      'jax_compilation_cache_dir',
      os.path.expanduser('~/.cache/sana_jax/compiled'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 1.0)
