"""Model folder written by a run of a ControlNet."""

from collections.abc import Mapping
import pathlib

from ml_collections import ConfigDict

from sana_jax.models.controlled import ControlledSana
from sana_jax.models.controlnet import with_embeddings
from sana_jax.tasks.controlnet import base as bases
from sana_jax.tasks.sana import exports as sana_exports
from sana_jax.typing import Params
from sana_jax.weights import copying, hub
from sana_jax.weights import folder as folders


def write(
  module: ControlledSana,
  config: ConfigDict,
  others: Mapping[str, pathlib.Path],
  params: Params,
  folder,
) -> None:
  """Writes the folder of a SanaControlNetPipeline: the net and its base.

  The net has its own copies of the base's embeddings, as in diffusers.
  """
  folder, (net,) = pathlib.Path(folder), module.nets
  base = hub.find(bases.name_of(config))
  loaded = folders.load(base, 'transformer')
  whole = with_embeddings(params, loaded.variables['params'])
  folders.write(folder, 'controlnet', net, {'params': whole})
  copying.copy(base, 'transformer', folder)
  sana_exports.write_others(config, others, folder)
  written = folders.read_json(folder / 'controlnet' / 'config.json')
  folders.index_controlnet(folder, written)
