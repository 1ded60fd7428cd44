"""Compiled programs are kept on disk, and half of one is nobody's trouble."""

import functools

import jax

from sana_jax.seals import sealed, unsealed


def keep(folder: str | None, at_least_seconds: float | None = None) -> None:
  """Keeps what took `at_least_seconds` to compile, in `folder`.

  JAX writes in place, so a process that is killed or a disk that is full
  leaves half a program, and so does, for a moment, each process that others
  start beside. JAX warns of it at every start from then on and never replaces
  it; here it is removed and compiled anew.
  """
  jax.config.update('jax_compilation_cache_dir', folder)
  if at_least_seconds is not None:
    jax.config.update(
      'jax_persistent_cache_min_compile_time_secs', at_least_seconds
    )
  mend()


def mend() -> None:
  """What of the folder in use cannot be read is removed when it is asked for.

  JAX has no public name for this. Without the private one, it warns as before.
  """
  from jax._src import compilation_cache

  read = getattr(compilation_cache, 'get_executable_and_time', None)
  if read is not None and not hasattr(read, '__wrapped__'):
    compilation_cache.get_executable_and_time = _mended(read)
    _seal(compilation_cache)


def _seal(compilation_cache) -> None:
  """Adds a checksum to what is kept: zstd's frames of JAX have none.

  JAX alone ignores what stands behind a compressed program. A program without
  a checksum is of JAX alone, or of an older version, and is compiled anew.
  """
  pack = getattr(compilation_cache, 'compress_executable', None)
  unpack = getattr(compilation_cache, 'decompress_executable', None)
  if pack and unpack:
    compilation_cache.compress_executable = lambda data: sealed(pack(data))
    compilation_cache.decompress_executable = lambda data: unpack(
      unsealed(data)
    )


def _mended(read):
  @functools.wraps(read)
  def mended(key, *args, **options):
    try:
      return read(key, *args, **options)
    except OSError:  # A place that cannot be read now: JAX's warning tells.
      raise
    except Exception:  # zlib's and XLA's errors have no other base in common.
      _remove(key)
      return None, None  # JAX's word for "not there".

  return mended


def _remove(key: str) -> None:
  from jax._src.path import Path  # Of gs:// too, where etils is installed.

  folder = Path(jax.config.jax_compilation_cache_dir)
  (folder / f'{key}-cache').unlink(missing_ok=True)
