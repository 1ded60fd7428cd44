"""Model folder written by a run of the transformer."""

from collections.abc import Mapping
import pathlib

from ml_collections import ConfigDict

from sana_jax.data import shapes
from sana_jax.inference import model_index
from sana_jax.models.sana import Sana
from sana_jax.tasks.sana import encoders
from sana_jax.text import tokenizer_files
from sana_jax.typing import Params
from sana_jax.weights import copying, hub
from sana_jax.weights import folder as folders


def folders_of(config: ConfigDict) -> dict[str, pathlib.Path]:
  """Model folders that a run needs, by the config's key."""
  found = {key: encoders.find(config, key) for key in encoders.PARTS}
  for key, parts in encoders.PARTS.items():
    for part in parts:
      copying.check(found[key], part)  # Early, as it is copied at the end.
  tokenizer_files.read(found['text_encoder'] / 'tokenizer')
  return found


def sizes(others: Mapping[str, pathlib.Path]) -> dict[str, int]:
  """Fields of the transformer that follow from the two other models."""
  channels = folders.describe(others['autoencoder'], 'vae').spec.channels
  text_encoder = folders.describe(others['text_encoder'], 'text_encoder')
  return {
    'in_channels': channels,
    'out_channels': channels,
    'caption_channels': text_encoder.width,
  }


def write(
  module: Sana,
  config: ConfigDict,
  others: Mapping[str, pathlib.Path],
  params: Params,
  folder,
) -> None:
  """Writes a model folder: the transformer and copies of the other two."""
  folder = pathlib.Path(folder)
  folders.write(folder, 'transformer', module, {'params': params})
  write_others(config, others, folder)


def write_others(
  config: ConfigDict, others: Mapping[str, pathlib.Path], folder: pathlib.Path
) -> None:
  """Writes copies of the two other models, and the index of the folder."""
  for key, parts in encoders.PARTS.items():
    for part in parts:
      copying.copy(others[key], part, folder)
  settings = config.sampling
  folders.write_index(
    folder,
    flow_shift=settings.shift,
    sampling={
      'steps': settings.steps,
      'guidance_scale': settings.guidance_scale,
      **vocabulary(config),
    },
  )


def vocabulary(config: ConfigDict) -> dict[str, list[str]]:
  """Words and examples of a model that was trained on `shapes` only.

  A run with config.init_from continues such a model, if its folder has them.
  """
  if config.data.source != 'shapes' or not _knows_only_words(config.init_from):
    return {}
  return {'words': shapes.words(), 'examples': list(shapes.EXAMPLES)}


def _knows_only_words(init_from):
  """Whether a start is random, or a model with a list of words."""
  if not init_from:
    return True
  folder = hub.on_this_machine(init_from)
  if folder is None or not (folder / 'model_index.json').is_file():
    return False
  return bool(model_index.vocabulary(folder).words)
