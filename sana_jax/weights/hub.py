"""Where a model lies: a folder, one shipped here, a zoo name or a hub id."""

import os
import pathlib

from sana_jax.errors import UserError
from sana_jax.weights import zoo

ASSETS = pathlib.Path(__file__).parents[1] / 'assets'
# Of a hub repository, what loading needs; not the same weights once more in
# half precision, which casting gives too.
_WANTED = ('*.json', '*.safetensors', '*.model')
_UNWANTED = ('*.fp16*', '*.bf16*')


def find(name: str | os.PathLike) -> pathlib.Path:
  """The folder of a model, downloaded if need be.

  A name is a folder, a model that is shipped here ('shapes'), a name of the
  zoo ('sana_600m_512') or a hub id. The hub's cache is used first, and nothing
  else where HF_HUB_OFFLINE=1.

  Raises UserError if it is none of these, or cannot be had.
  """
  path = pathlib.Path(name).expanduser()
  if path.is_dir():
    return path
  if (ASSETS / str(name) / 'model_index.json').is_file():
    return ASSETS / str(name)
  text = zoo.hub_id(str(name)) or str(name)
  if text.count('/') != 1 or text.startswith(('.', '/', '~')):
    shipped = sorted(p.parent.name for p in ASSETS.glob('*/model_index.json'))
    raise UserError(
      f'There is no model folder {text!r}; give a folder in the diffusers '
      f'layout, a hub id such as Efficient-Large-Model/Sana_600M_512px_'
      f'diffusers, a name that sana-jax zoo lists, or a model that is shipped '
      f'here: {shipped}.')
  return _download(text)


def _download(hub_id):
  import huggingface_hub
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(
      hub_id, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
  except (OSError, ValueError) as e:
    reason = str(e).strip().splitlines()[0]
    raise UserError(
      f'{hub_id!r} is no folder here and cannot be had from the hub '
      f'({type(e).__name__}: {reason}); check the name and the network'
      f'{_offline()}.') from e


def _offline():
  from huggingface_hub import constants
  return ', or unset HF_HUB_OFFLINE' if constants.HF_HUB_OFFLINE else ''
