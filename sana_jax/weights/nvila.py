"""Folders of NVILA, as NVlabs/VILA writes them, read strictly.

  config.json     its settings; also the configs of the parts, if they have none
  llm/            config.json, model.safetensors, the tokenizer
  vision_tower/   config.json, model.safetensors, preprocessor_config.json
  mm_projector/   config.json, model.safetensors

The tensors may also be in one model.safetensors beside config.json, with the
names of the folders as prefixes. No code of the folder is run.
"""

from collections.abc import Mapping, Sequence
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.models.nvila import NVILA, Projector
from sana_jax.models.nvila.scales import Scales
from sana_jax.models.qwen2 import Qwen2
from sana_jax.models.siglip import SigLIP
from sana_jax.sharding import rules as sharding_rules
from sana_jax.sharding import tables
from sana_jax.sharding.mesh import make_mesh
from sana_jax.typing import DType, PyTree
from sana_jax.weights import projector, qwen2, siglip, table, weight_files
from sana_jax.weights.folder import CONFIG_BYTES, Model, reading
from sana_jax.weights.nvila_config import Settings, settings_of
from sana_jax.weights.table import Rule
from sana_jax.weights.tensors import Stored

# The folders of the parts, and our names of them.
PARTS = {'vision_tower': 'tower', 'mm_projector': 'projector', 'llm': 'llm'}


class Described(NamedTuple):
  """A folder whose configs and names of tensors were read."""

  folder: pathlib.Path
  settings: Settings
  module: NVILA
  rules: list[Rule]
  tensors: dict[str, Stored]


def describe(folder: pathlib.Path | str, dtype: DType) -> Described:
  """The model and the settings of a folder; no tensor is read.

  Raises UserError if anything is missing or not supported.
  """
  folder = pathlib.Path(folder)
  with reading(folder):
    root = read_json(folder / 'config.json')
    configs = {part: _config(folder, root, part) for part in PARTS}
    settings = settings_of(root)
    module, rules = assembled(configs, settings.maps, dtype, settings.select)
    tensors = named(module, _tensors(folder))
    return Described(folder, settings, module, rules, tensors)


def load(
  described: Described, dtype: DType, devices: Sequence[jax.Device] = ()
) -> tuple[Model, Mesh | None]:
  """The model in `dtype`, sharded over the devices, and their mesh.

  Raises UserError if a tensor is damaged, missing or does not match.
  """
  module, found = described.module, described.settings.maps
  with reading(described.folder):
    variables = shapes(module, found)
    mesh = mesh_of(variables['params'], devices)
    by_table = tables.NVILA if module.llm.tied else tables.NVILA_UNTIED
    where = mesh and {
      'params': sharding_rules.shardings(variables['params'], by_table, mesh)
    }
    rules = [rule.under('params') for rule in described.rules]
    loaded = table.load(rules, described.tensors, variables, dtype, where)
    return Model(module, loaded), mesh


def mesh_of(params: PyTree, devices: Sequence[jax.Device]) -> Mesh | None:
  """Mesh over which every kernel can be sharded; None for one device."""
  if len(devices) < 2:
    return None
  sizes = [
    params['tower']['position'].shape[1],
    params['llm']['table']['embedding'].shape[1],
    *(
      layer['kernel'].shape[0]
      for layer in params['projector'].values()
      if 'kernel' in layer
    ),
  ]
  fsdp = math.gcd(len(devices), *sizes)
  return make_mesh({'fsdp': fsdp, 'data': -1}, devices)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """JSON object of a small file of a judge's folder; UserError without it."""
  try:
    return files.read_json(path, most=CONFIG_BYTES)
  except FileNotFoundError:
    raise UserError(
      f'{path} is missing; a judge is a folder of NVILA with config.json, '
      f'{", ".join(PARTS)}.',
      key='--scorer',
      value=path,
      allowed='folders of NVILA',
    ) from None


def _config(folder, root, part):
  """Config of a part, of its folder or within the root's."""
  within = root.get(f'{part}_cfg')
  path = folder / part / 'config.json'
  if not path.exists() and isinstance(within, dict):
    return within
  if not path.exists():
    raise UserError(
      f'{folder} has no {part}: {part}/config.json is missing, and config.json '
      f'has no {part}_cfg; a judge needs {", ".join(PARTS)}.',
      key=part,
      value=folder,
      allowed=tuple(PARTS),
    )
  return read_json(path)


def _tensors(folder) -> dict[str, Stored]:
  """All tensors, with the names of the parts as prefixes."""
  alone = [x for x in folder.glob('model*.safetensors*') if x.is_file()]
  if alone:
    found = weight_files.read(folder, 'model')
    for part in PARTS:
      if not any(key.startswith(f'{part}.') for key in found):
        raise UserError(
          f'{folder}: {alone[0].name} has no {part}; a judge needs '
          f'{", ".join(PARTS)}.',
          key=part,
          value=folder,
          allowed=tuple(PARTS),
        )
    return found
  return {
    f'{part}.{key}': tensor
    for part in PARTS
    for key, tensor in weight_files.read(folder / part, 'model').items()
  }


def projector_of(
  config: Mapping[str, Any], inputs: int, outputs: int, dtype: DType
) -> tuple[Projector, list[Rule]]:
  """The module of a projector's config, and the rules of its tensors."""
  module = Projector(
    **projector.fields_from_config(config, inputs, outputs), dtype=dtype
  )
  return module, projector.rules(len(module.widths))


def assembled(
  configs: Mapping[str, Mapping[str, Any]],
  maps: int,
  dtype: DType,
  select: int = -2,
) -> tuple[NVILA, list[Rule]]:
  """The module of the parts' configs, and the rules of all tensors.

  Args:
    maps: scales whose features are joined by channel.
    select: index of the tower's hidden states, negative from the end.
  """
  tower = SigLIP(
    **siglip.fields_from_transformers(configs['vision_tower'], select),
    dtype=dtype,
  )
  llm = Qwen2(**qwen2.fields_from_transformers(configs['llm']), dtype=dtype)
  between, between_rules = projector_of(
    configs['mm_projector'], maps * tower.width, llm.width, dtype
  )
  rules = [
    rule._replace(key=f'{part}.{rule.key}').under(ours)
    for (part, ours), found in zip(
      PARTS.items(), (siglip.RULES, between_rules, qwen2.RULES)
    )
    for rule in found
  ]
  return NVILA(tower=tower, projector=between, llm=llm), rules


def named(module: NVILA, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
  """Tensors with the keys of the rules, without those that are not used."""
  parts = {part: {} for part in PARTS}
  other = {}
  for key, tensor in tensors.items():
    part, _, rest = key.partition('.')
    if part in parts:
      parts[part][rest.removeprefix('vision_tower.')] = tensor
    else:
      other[key] = tensor  # Reported by the table.
  parts['vision_tower'] = siglip.model_tensors(
    parts['vision_tower'], module.tower.depth
  )
  parts['llm'] = qwen2.model_tensors(parts['llm'], module.llm.tied)
  return other | {
    f'{part}.{key}': tensor
    for part, found in parts.items()
    for key, tensor in found.items()
  }


def shapes(module: NVILA, maps: int = 1) -> PyTree:
  """Shapes of the variables; nothing is allocated."""
  side, scales = module.tower.image_size, Scales(((1, 1),) * maps)
  tokens = jnp.zeros((1, 1), jnp.int32)
  return jax.eval_shape(
    lambda rng: module.init(
      rng, jnp.zeros((1, maps, side, side, 3)), tokens, tokens == 0, scales
    ),
    jax.random.key(0),
  )
