"""Sets JAX up for a command, before it looks for devices."""

import contextlib
import os


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
