"""Models inside what trainers and interfaces wrap them in.

{'model': ..., 'optimizer': ...}   entries of a pickled checkpoint
module., _orig_mod.                DataParallel and torch.compile
model.diffusion_model.             the transformer of a file with all parts
"""

from collections.abc import Collection, Mapping
from typing import TypeVar

from absl import logging

from sana_jax.printable import counted, printable

T = TypeVar('T')
# Keys of the weights, and of their EMA, in the order of preference.
KEYS = ('state_dict', 'model', 'model_state_dict', 'module', 'weights')
EMA_KEYS = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'ema')
_ALL = ('module.', '_orig_mod.', 'model.')  # Prefixes of all names.
_TRANSFORMER = 'model.diffusion_model.'


def without_prefixes(tensors: Mapping[str, T], name: str) -> dict[str, T]:
  """The tensors by the names of the model itself.

  Tensors beside `model.diffusion_model.` are of other parts; they are left out,
  with a warning.

  Args:
    name: of the file, for the warning.
  """
  inner = _under(_TRANSFORMER, tensors)
  if inner:
    if others := [key for key in tensors if not key.startswith(_TRANSFORMER)]:
      logging.warning(
        '%s: read %s of %s; left out %d of other parts, such as %s.',
        name,
        counted(len(inner), 'tensor'),
        _TRANSFORMER,
        len(others),
        printable(others[0], 100),
      )
    return without_prefixes(inner, name)
  for prefix in _ALL:
    inner = _under(prefix, tensors)
    if inner and len(inner) == len(tensors):
      return without_prefixes(inner, name)
  return dict(tensors)


def _under(prefix, tensors):
  return {
    key.removeprefix(prefix): tensor
    for key, tensor in tensors.items()
    if key.startswith(prefix) and key != prefix
  }


def key_of(names: Collection[str], ema: bool) -> str | None:
  """The entry of a checkpoint with the weights, or their EMA, if any."""
  return next((k for k in (EMA_KEYS if ema else KEYS) if k in names), None)
