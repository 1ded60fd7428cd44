"""Where a model lies: a folder, one shipped here, a zoo name or a hub id."""

import os
import pathlib

from sana_jax.errors import UserError
from sana_jax.printable import printable
from sana_jax.weights import zoo

ASSETS = pathlib.Path(__file__).parents[1] / 'assets'
# Data that loading needs of a hub repository, and no code; not the same weights
# once more in half precision, which casting gives too.
_WANTED = ('*.json', '*.safetensors')
_UNWANTED = ('*.fp16*', '*.bf16*')


def find(name: str | os.PathLike) -> pathlib.Path:
  """The folder of a model, downloaded if need be.

  A name is a folder, a model that is shipped here ('shapes'), a name of the
  zoo ('sana_600m_512') or a hub id. The hub's cache is used first, and nothing
  else where HF_HUB_OFFLINE=1.

  Raises UserError if it is none of these, or cannot be had.
  """
  path = local(name)
  if path.is_dir():
    return path
  if (ASSETS / str(name) / 'model_index.json').is_file():
    return ASSETS / str(name)
  text = zoo.hub_id(str(name)) or str(name)
  shown = printable(text, 200)
  if text.count('/') != 1 or text.startswith(('.', '/', '~')):
    shipped = sorted(p.parent.name for p in ASSETS.glob('*/model_index.json'))
    raise UserError(
      f'There is no model folder {shown!r}; give a folder in the diffusers '
      f'layout, a hub id such as Efficient-Large-Model/Sana_600M_512px_'
      f'diffusers, a name that sana-jax zoo lists, or a model that is shipped '
      f'here: {shipped}.'
    )
  return _download(text, shown)


def local(name: str | os.PathLike) -> pathlib.Path:
  """The path that a name may be, its `~` replaced.

  Raises UserError for what is no path here, such as one that is too long.
  """
  try:
    if not os.fspath(name):
      raise ValueError('it is empty')
    path = pathlib.Path(name).expanduser()
    path.exists()  # Raises OSError where the system has no such names.
    return path
  except (OSError, RuntimeError, ValueError) as e:
    reason = e.strerror if isinstance(e, OSError) else e
    raise UserError(
      f'{printable(name, 200)!r} is no name of a model '
      f'({printable(reason, 200)}).'
    ) from e


def _download(hub_id, shown):
  import huggingface_hub

  try:
    return pathlib.Path(
      huggingface_hub.snapshot_download(
        hub_id, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
      )
    )
  except Exception as e:  # A hub can answer anything.
    reason = printable((str(e).strip().splitlines() or [''])[0], 300)
    raise UserError(
      f'{shown!r} is no folder here and cannot be had from the hub '
      f'({type(e).__name__}: {reason}); check the name and the network'
      f'{_offline()}.'
    ) from e


def _offline():
  from huggingface_hub import constants

  return ', or unset HF_HUB_OFFLINE' if constants.HF_HUB_OFFLINE else ''
