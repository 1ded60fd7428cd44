"""Model folders in the diffusers layout: read onto devices, and written.

  model_index.json
  transformer/   config.json, diffusion_pytorch_model.safetensors
  vae/           config.json, diffusion_pytorch_model.safetensors
  text_encoder/  config.json, model.safetensors
  tokenizer/, scheduler/scheduler_config.json
  controlnet/    as transformer/; optional

Files may be sharded, with an index. Loading runs no code from them. A part may
contain an Orbax checkpoint of our own parameters instead of safetensors (see
native.py), which is the fastest to load onto many devices.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.printable import counted, printable
from sana_jax.sharding import rules as sharding_rules
from sana_jax.typing import DType, PyTree
from sana_jax.weights import (
  kinds,
  native,
  native_shapes,
  safetensors_files,
  table,
  weight_files,
)
from sana_jax.weights.kind import ModelKind
from sana_jax.weights.tensors import Stored, stored

# (config.json, tensors, None in our own format) -> those of another model.
Tensors = Mapping[str, Stored]
Change = Callable[
  [Mapping[str, Any], Tensors | None], tuple[Mapping[str, Any], Tensors]
]
CONFIG_BYTES = 2**20  # Limit of a config.json or another small JSON file.


class Model(NamedTuple):
  """A module and its variables, {'params': ...}."""

  module: nn.Module
  variables: PyTree

  def __repr__(self):
    count = sum(x.size for x in jax.tree.leaves(self.variables))
    return f'Model({type(self.module).__name__}, {count:,} parameters)'


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """JSON object of a small file of a model folder.

  Raises UserError if it is missing, too large or damaged.
  """
  try:
    return files.read_json(path, most=CONFIG_BYTES)
  except FileNotFoundError:
    raise UserError(
      f'{path} is missing; the model folder must be in the diffusers layout.',
      value=path,
      allowed='existing files',
    ) from None


def describe(
  folder: pathlib.Path, part: str, dtype: DType = jnp.float32
) -> nn.Module:
  """Module of folder/part; its weights are not read."""
  folder = _of_part(folder, part)
  with reading(folder):
    config = read_json(folder / 'config.json')
    return kinds.of_config(config, part).module(config, dtype)


def load(
  folder: pathlib.Path,
  part: str,
  dtype: DType = jnp.float32,
  mesh: Mesh | None = None,
  only: str = '',
  change: Change | None = None,
) -> Model:
  """Loads folder/part in `dtype`, sharded over `mesh` by its table.

  Each tensor is read once, directly into its shards, so that a process needs
  little more memory than the model.

  Args:
    part: 'transformer', 'vae', 'text_encoder' or 'controlnet'.
    only: 'decoder' or 'encoder' of a vae, to load only that.
    change: makes another model of the files before they are read.

  Raises UserError if anything is missing, damaged or does not match.
  """
  folder = _of_part(folder, part)
  with reading(folder):
    config = read_json(folder / 'config.json')
    kind = kinds.of_config(config, part)
    tensors = (
      None
      if native.holds(folder)
      else kind.prepare(weight_files.read(folder, kind.stem))
    )
    if change is not None:
      config, tensors = change(config, tensors)
    module = kind.module(config, dtype)
    shapes = shapes_of(kind, module, tensors)
    shardings = (
      None
      if mesh is None
      else sharding_rules.shardings(
        shapes,
        [(f'[^/]*/{pattern}', spec) for pattern, spec in kind.sharding],
        mesh,
      )
    )
    if tensors is None:
      native_shapes.check(folder, shapes)
      variables = native.load(folder, shapes, dtype, shardings)
      return Model(
        module,
        variables
        if not only
        else {
          name: {only: tree[only]}
          for name, tree in variables.items()
          if only in tree
        },
      )
    return Model(
      module,
      table.load(kind.rules(module), tensors, shapes, dtype, shardings, only),
    )


def check(folder: pathlib.Path, part: str) -> None:
  """Raises UserError as `load` does; reads names and shapes, no weights."""
  folder = _of_part(folder, part)
  with reading(folder):
    config = read_json(folder / 'config.json')
    kind = kinds.of_config(config, part)
    module = kind.module(config, jnp.float32)
    if native.holds(folder):
      native_shapes.check(folder, shapes_of(kind, module, None))
      return
    tensors = kind.prepare(weight_files.read(folder, kind.stem))
    shapes = shapes_of(kind, module, tensors)
    table.match(kind.rules(module), tensors, shapes)


def _of_part(folder, part):
  """folder/part, or the folder itself if it is that of one part."""
  folder = pathlib.Path(folder)
  alone = (folder / 'config.json').is_file() and not (folder / part).exists()
  return folder if alone else folder / part


def shapes_of(
  kind: ModelKind, module: nn.Module, tensors: Mapping[str, Stored] | None
) -> PyTree:
  """Shapes of the module's variables; nothing is allocated.

  Raises WeightError if the module has more layers than the file has tensors,
  before tracing the layers.
  """
  layers = kind.layers(module)
  if tensors is not None and layers > len(tensors):
    raise table.WeightError(
      f'config.json describes {layers:,} layers, but '
      f'the file has only {counted(len(tensors), "tensor")}.',
      key='layers',
      value=layers,
      allowed=f'{len(tensors)} or fewer',
    )
  return kind.shapes(module)


def file_shapes(
  part: str, config: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the tensors of a config's file; nothing is allocated.

  The names are those of diffusers (transformers for the text encoder).
  """
  kind = kinds.of_config(config, part)
  module = kind.module(config, jnp.float32)
  blank = jax.tree.map(
    lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape),
    kind.shapes(module),
  )
  saved = table.save(kind.rules(module), blank)
  return {key: x.shape for key, x in saved.items()}


@contextlib.contextmanager
def reading(folder: pathlib.Path) -> Iterator[None]:
  """Adds the folder to errors, including those of the model's own code."""
  try:
    yield
  except UserError as e:
    if str(folder) in str(e):
      raise
    raise type(e)(
      f'{folder}: {e}', key=e.key, value=e.value, allowed=e.allowed
    ) from e
  except (ArithmeticError, LookupError, TypeError, ValueError) as e:
    reason = (str(e).strip().splitlines() or [''])[0]
    raise UserError(
      f'{folder / "config.json"} does not describe a valid model '
      f'({type(e).__name__}: {printable(reason, 300)}).',
      key='config.json',
      value=folder,
    ) from e


def write(
  folder: pathlib.Path, part: str, module: nn.Module, variables: PyTree
) -> None:
  """Writes folder/part of a model: config.json and tensors."""
  kind = kinds.of_module(module)
  tensors = table.save(kind.rules(module), variables)
  write_part(
    folder,
    part,
    kind.config(module_fields(module)),
    {key: stored(np.asarray(x)) for key, x in tensors.items()},
  )


def write_part(
  folder: pathlib.Path,
  part: str,
  config: Mapping[str, Any],
  tensors: Mapping[str, Stored],
) -> None:
  """Writes config.json and then tensors, unchanged."""
  folder = pathlib.Path(folder) / part
  write_json(folder / 'config.json', config)
  safetensors_files.write(folder, kinds.of_config(config, part).stem, tensors)


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Writes indented JSON with a final newline."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')


def module_fields(module: nn.Module) -> dict[str, Any]:
  """Fields of a module by name, without those of Flax."""
  return {
    f: getattr(module, f)
    for f in module.__dataclass_fields__
    if f not in ('parent', 'name')
  }


def write_index(
  folder: pathlib.Path, *, flow_shift: float, sampling: Mapping[str, Any]
) -> None:
  """Writes model_index.json and the scheduler of an otherwise complete folder.

  `sampling` has the recommended steps and guidance, and the words and examples
  of a model that was trained on few words, for our commands.
  """
  write_json(
    folder / 'scheduler' / 'scheduler_config.json',
    {
      '_class_name': 'DPMSolverMultistepScheduler',
      'flow_shift': flow_shift,
      'prediction_type': 'flow_prediction',
      'use_flow_sigmas': True,
    },
  )
  write_json(
    folder / 'model_index.json',
    {
      '_class_name': 'SanaPipeline',
      '_sana_jax': dict(sampling),
      'scheduler': ['diffusers', 'DPMSolverMultistepScheduler'],
      'text_encoder': ['transformers', 'Gemma2Model'],
      'tokenizer': ['transformers', 'GemmaTokenizer'],
      'transformer': ['diffusers', 'SanaTransformer2DModel'],
      'vae': ['diffusers', 'AutoencoderDC'],
    },
  )


def index_sprint(folder: pathlib.Path) -> None:
  """Changes a folder's index and scheduler to those of a SANA-Sprint."""
  scheduler = 'SCMScheduler'
  index = read_json(folder / 'model_index.json')
  index |= {
    '_class_name': 'SanaSprintPipeline',
    'scheduler': ['diffusers', scheduler],
  }
  write_json(folder / 'model_index.json', index)
  write_json(
    folder / 'scheduler' / 'scheduler_config.json',
    {
      '_class_name': scheduler,
      'num_train_timesteps': 1000,
      'prediction_type': 'trigflow',
      'sigma_data': 0.5,
    },
  )


def index_controlnet(folder: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Changes a folder's index to that of a pipeline with this ControlNet."""
  index = read_json(folder / 'model_index.json')
  name = kinds.of_config(config, 'controlnet').class_name
  library = 'diffusers' if name == kinds.CONTROLNET.class_name else 'sana_jax'
  index |= {
    '_class_name': 'SanaControlNetPipeline',
    'controlnet': [library, name],
  }
  write_json(folder / 'model_index.json', index)
