"""Every test sees eight CPU devices and checked shapes."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import jax
import jaxtyping
import pytest

jax.config.update('jax_num_cpu_devices', 8)
# Compiled programs are kept between runs of the suite.
jax.config.update('jax_compilation_cache_dir', os.path.expanduser(
  os.environ.get('SANA_JAX_TEST_CACHE', '~/.cache/sana_jax/tests')))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)

# Signatures' shapes are checked in tests only: no cost in production.
_hook = jaxtyping.install_import_hook('sana_jax', 'beartype.beartype')


def pytest_collection_modifyitems(items):
  platform = jax.default_backend()
  for item in items:
    for chip in ('gpu', 'tpu'):
      if item.get_closest_marker(chip) and platform != chip:
        item.add_marker(pytest.mark.skip(reason=f'needs a {chip}'))
