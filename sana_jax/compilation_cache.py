"""Persistent compilation cache that discards corrupt entries."""

import functools

import jax

from sana_jax.seals import sealed, unsealed


def enable(folder: str | None, at_least_seconds: float | None = None) -> None:
  """Stores programs that took `at_least_seconds` to compile in `folder`.

  JAX writes in place, so a killed process, a full disk or a process that is
  still writing leaves a truncated entry. JAX alone warns of it at every start
  and never replaces it; here it is deleted and the program is recompiled.
  """
  jax.config.update('jax_compilation_cache_dir', folder)
  if at_least_seconds is not None:
    jax.config.update(
      'jax_persistent_cache_min_compile_time_secs', at_least_seconds
    )
  discard_corrupt_entries()


def discard_corrupt_entries() -> None:
  """Deletes a cache entry that cannot be read, so that JAX recompiles it.

  Patches a private function of JAX, as there is no public one. Without that
  function, JAX warns as before.
  """
  from jax._src import compilation_cache

  read = getattr(compilation_cache, 'get_executable_and_time', None)
  if read is not None and not hasattr(read, '__wrapped__'):
    compilation_cache.get_executable_and_time = _discarding(read)
    _seal(compilation_cache)


def _seal(compilation_cache) -> None:
  """Adds a checksum to the entries, since JAX's zstd frames have none.

  JAX alone ignores trailing bytes of an entry. An entry without a checksum is
  from JAX alone or an older version; its program is recompiled.
  """
  pack = getattr(compilation_cache, 'compress_executable', None)
  unpack = getattr(compilation_cache, 'decompress_executable', None)
  if pack and unpack:
    compilation_cache.compress_executable = lambda data: sealed(pack(data))
    compilation_cache.decompress_executable = lambda data: unpack(
      unsealed(data)
    )


def _discarding(read):
  @functools.wraps(read)
  def read_or_discard(key, *args, **options):
    try:
      return read(key, *args, **options)
    except OSError:  # The folder cannot be read now: JAX warns.
      raise
    except Exception:  # zlib's and XLA's errors have no other base in common.
      _remove(key)
      return None, None  # A cache miss, to JAX.

  return read_or_discard


def _remove(key: str) -> None:
  from jax._src.path import Path  # Supports gs:// if etils is installed.

  folder = Path(jax.config.jax_compilation_cache_dir)
  (folder / f'{key}-cache').unlink(missing_ok=True)
