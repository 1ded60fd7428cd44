"""Facts of a run for the card of its exported model, see weights/card.py."""

from collections.abc import Mapping
import io
import pathlib
import re
from typing import Any

from absl import logging
from etils import epath
import huggingface_hub
import jax
from ml_collections import ConfigDict
from PIL import Image

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.inference import images
from sana_jax.printable import counted, printable
from sana_jax.training import workdir as workdirs
from sana_jax.typing import Params
from sana_jax.weights import card as cards
from sana_jax.weights import folder as folders
from sana_jax.weights import hub, zoo
from sana_jax.weights.card import Card

SAMPLES = 'samples.jpg'
_SIDE = 1024  # Of the samples.
_MOST_BYTES = 2**26  # Of a picture of the run.
_COPIED = {'autoencoder': 'autoencoder', 'text_encoder': 'text encoder'}


def write(
  folder: pathlib.Path,
  workdir: epath.Path,
  step: int,
  weights: str,
  config: ConfigDict,
  params: Params,
  licence: str | None = None,
) -> None:
  """Writes README.md, and the run's samples, into an exported model."""
  pipeline = _pipeline(folder / 'model_index.json')
  picture = _picture(workdir, step)
  if picture is not None:
    (folder / SAMPLES).write_bytes(picture)
  base = config.init_from or None
  card = Card(
    title=_name(str(workdir)),
    facts=_facts(config, step, weights, params),
    licence=licence or _licence_of(base),
    base=base and _name(base),
    base_licence=_in_words(base),
    base_id=_hub_id(base),
    copied={
      part: _name(config[key])
      for key, part in _COPIED.items()
      if pipeline and config.get(key)
    },
    scores=_scores(workdir),
    picture=None if picture is None else SAMPLES,
    pipeline=pipeline,
  )
  (folder / cards.NAME).write_text(cards.text(card), encoding='utf-8')


def _pipeline(index):
  """Class in a model_index.json; '' if there is none."""
  if not index.is_file():
    return ''
  return folders.read_json(index)['_class_name']


def _facts(config, step, weights, params):
  count = sum(x.size for x in jax.tree.leaves(params))
  data = config.data.source
  if data != 'shapes':  # A path may name folders of the machine.
    data += f', {_name(config.data.path)}'
  kind = 'EMA' if weights == 'ema' else 'not averaged'
  return {
    'task': config.task,
    'parameters': f'{count:,}',
    'weights': f'step {step:,}, {kind}',
    'batch size': f'{config.batch_size:,}',
    'data': data,
    'image size': f'{config.data.size_px} px',
    'optimizer': (
      f'{config.optimizer.name}, learning rate '
      f'{config.optimizer.learning_rate:g}'
    ),
    'arithmetic': config.dtype,
  }


def _name(path):
  """Last part of a local path or URL; a hub id or another name is kept."""
  if _hub_id(path):
    return path
  return path.rstrip('/').rpartition('/')[2] or path


def _entry(base):
  """Entry of the zoo for a name or a hub id."""
  return next((x for x in zoo.ENTRIES if base in (x.name, x.hub_id)), None)


def _hub_id(base):
  """The hub id of a model's name; None for a folder, or what may be one."""
  if not base:
    return None
  if entry := _entry(base):
    return entry.hub_id
  is_id = re.fullmatch(r'[\w.-]{1,96}/[\w.-]{1,96}', base, re.ASCII)
  if not is_id or hub.local(base).exists():
    return None
  # A relative path has the same form; the hub's cache has what was loaded.
  found = huggingface_hub.try_to_load_from_cache(base, 'model_index.json')
  return base if isinstance(found, str) else None


def _licence_of(base):
  """The licence that the card of a local base model states."""
  if not base or not (folder := hub.local(base)).is_dir():
    return None
  return cards.licence_in(folder)


def _in_words(base):
  entry = base and _entry(base)
  return entry.licence if entry else None


def _scores(workdir) -> Mapping[str, Any] | None:
  """The scores in the workdir; None if there are none that can be read."""
  path = workdir / 'scores.json'
  try:
    data = workdirs.read_state(path)
    scores = None if data is None else files.parse_json(data)
  except (UserError, ValueError) as e:
    logging.warning('%s is left out of the card: %s', path, printable(e, 200))
    return None
  return scores if isinstance(scores, Mapping) else None


def _picture(workdir, step):
  """A JPEG of the newest samples up to the step; None if there are none."""
  folder = workdir / 'pictures'
  steps = {}
  if folder.is_dir():
    found = (
      re.fullmatch(r'step_(\d{6,12})\.png', p.name) for p in folder.iterdir()
    )
    steps = {int(m[1]): m[0] for m in found if m and int(m[1]) <= step}
  if not steps:
    return None
  path = folder / steps[max(steps)]
  try:
    data = workdirs.read_state(path) or b''
    if len(data) > _MOST_BYTES:
      raise ValueError(counted(len(data), 'byte'))
    image = images.decode(data, '.png').convert('RGB')
  except (UserError, ValueError) as e:
    logging.warning('%s is left out of the card: %s', path, printable(e, 200))
    return None
  image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
  out = io.BytesIO()
  image.save(out, 'jpeg', quality=90)
  return out.getvalue()
