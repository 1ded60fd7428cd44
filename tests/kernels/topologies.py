"""Topologies of absent chips: their compilers run on any machine."""

from collections.abc import Iterator
import contextlib

import jax
from jax.experimental.compilation_cache import compilation_cache

from sana_jax.analysis.topologies import mesh as tpu_mesh

__all__ = ['tpu_mesh', 'uncached']


@contextlib.contextmanager
def uncached() -> Iterator[None]:
  """Disables the cache: programs for absent chips cannot be loaded from it."""
  _enable_cache(False)
  try:
    yield
  finally:
    _enable_cache(True)


def _enable_cache(enabled):
  jax.config.update('jax_enable_compilation_cache', enabled)
  compilation_cache.reset_cache()  # JAX reads the setting only once.
