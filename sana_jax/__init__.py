"""SANA: text-to-image with a linear diffusion transformer, in JAX and Flax."""

import pathlib

from sana_jax.version import __version__

_root = pathlib.Path(__file__).parents[1]
if (_root / 'setup.cfg').exists():
  from sana_jax import checkout

  checkout.install(__name__, _root)

__all__ = ['Pipeline', '__version__']


def __getattr__(name):
  # Imported on use: `import sana_jax` alone starts neither JAX nor a device.
  if name == 'Pipeline':
    from sana_jax.inference.pipeline import Pipeline

    return Pipeline
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}.')


def __dir__():
  return sorted([*globals(), *__all__])
