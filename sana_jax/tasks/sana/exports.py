"""The model folder that a run of the transformer writes."""

from collections.abc import Mapping
import pathlib

from ml_collections import ConfigDict

from sana_jax.models.sana import Sana
from sana_jax.tasks.sana import encoders
from sana_jax.text import tokenizer_files
from sana_jax.typing import Params
from sana_jax.weights import copying
from sana_jax.weights import folder as folders


def folders_of(config: ConfigDict) -> dict[str, pathlib.Path]:
  """The model folders that a run needs, by the config's key."""
  found = {key: encoders.find(config, key) for key in encoders.PARTS}
  for key, parts in encoders.PARTS.items():
    for part in parts:
      copying.check(found[key], part)  # At the start: copied at the end.
  tokenizer_files.read(found['text_encoder'] / 'tokenizer')
  return found


def sizes(others: Mapping[str, pathlib.Path]) -> dict[str, int]:
  """Fields of the transformer that the two other models decide."""
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
  """A whole model folder: the transformer and copies of the other two."""
  folder = pathlib.Path(folder)
  folders.write(folder, 'transformer', module, {'params': params})
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
    },
  )
