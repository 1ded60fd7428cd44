"""SANA, text to image with a linear diffusion transformer, in JAX and Flax."""

import pathlib

from sana_jax.version import __version__

# In a checkout that is not installed, kernels/, configs/ and launch/ lie
# beside this folder; an installation puts them inside it.
_root = pathlib.Path(__file__).parents[1]
if (_root / 'setup.cfg').exists():
  __path__.append(str(_root))

__all__ = ['Pipeline', '__version__']


def __getattr__(name):
  # Imported on use: `import sana_jax` alone starts neither JAX nor a device.
  if name == 'Pipeline':
    from sana_jax.inference.pipeline import Pipeline
    return Pipeline
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}.')
