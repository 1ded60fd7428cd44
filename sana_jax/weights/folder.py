"""Model folders in the diffusers layout: found by name, read and written.

  model_index.json
  transformer/   config.json, diffusion_pytorch_model.safetensors
  vae/           config.json, diffusion_pytorch_model.safetensors
  text_encoder/  config.json, model.safetensors
  tokenizer/, scheduler/scheduler_config.json

Files may be split, with an index beside them. Loading runs no code from them.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from sana_jax.errors import UserError
from sana_jax.models.dc_ae import DCAE
from sana_jax.models.gemma2 import Gemma2
from sana_jax.models.sana import Sana
from sana_jax.typing import DType, PyTree
from sana_jax.weights import dc_ae, gemma2, sana, table

ASSETS = pathlib.Path(__file__).parents[1] / 'assets'
_WEIGHTS = {'transformer': 'diffusion_pytorch_model',
            'vae': 'diffusion_pytorch_model', 'text_encoder': 'model'}


class Model(NamedTuple):
  """A module and its variables, {'params': ...}."""

  module: nn.Module
  variables: PyTree


def find(name: str | os.PathLike) -> pathlib.Path:
  """The folder of a model: a path, 'shapes' (shipped here) or a hub id.

  Raises UserError if it is none of these.
  """
  path = pathlib.Path(name).expanduser()
  if path.is_dir():
    return path
  if (ASSETS / str(name) / 'model_index.json').is_file():
    return ASSETS / str(name)
  text = str(name)
  if text.count('/') != 1 or text.startswith(('.', '/', '~')):
    shipped = sorted(p.parent.name for p in ASSETS.glob('*/model_index.json'))
    raise UserError(
      f'There is no model folder {text!r}; give a folder in the diffusers '
      f'layout, a hub id such as Efficient-Large-Model/Sana_600M_512px_'
      f'diffusers, or a model that is shipped here: {shipped}.')
  return _download(text)


def _download(hub_id):
  import huggingface_hub
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(hub_id))
  except (OSError, ValueError) as e:
    reason = str(e).strip().splitlines()[0]
    raise UserError(
      f'{hub_id!r} is no folder here and cannot be had from the hub '
      f'({type(e).__name__}: {reason}); check the name and the network.'
    ) from e


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object; `-Infinity` is accepted, as published schedulers have it."""
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise UserError(f'{path} is missing; the model folder must be in the '
                    'diffusers layout.') from None
  except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
    raise UserError(f'{path} cannot be read as JSON ({e}).') from e
  if not isinstance(value, dict):
    raise UserError(f'{path} holds no JSON object.')
  return value


def read_tensors(folder: pathlib.Path, stem: str) -> dict[str, np.ndarray]:
  """All tensors of `stem`.safetensors, or of the files that its index names."""
  index = folder / f'{stem}.safetensors.index.json'
  names = [f'{stem}.safetensors']
  if index.is_file():
    files = read_json(index).get('weight_map')
    if not isinstance(files, dict):
      raise UserError(f'{index} has no weight_map from tensors to files.')
    names = sorted(set(files.values()))
  tensors = {}
  for name in names:
    try:
      tensors |= safetensors.numpy.load_file(folder / name)
    except FileNotFoundError:
      raise UserError(f'{folder / name} is missing.') from None
    except (OSError, safetensors.SafetensorError) as e:
      raise UserError(f'{folder / name} cannot be read ({e}); it may be '
                      'damaged or cut short.') from e
  return tensors


@contextlib.contextmanager
def _reading(folder: pathlib.Path) -> Iterator[None]:
  """Names the folder whose config.json the model's code trips over."""
  try:
    yield
  except UserError:
    raise
  except (ArithmeticError, LookupError, TypeError, ValueError) as e:
    reason = (str(e).strip().splitlines() or [''])[0]
    raise UserError(f'{folder / "config.json"} describes no model that can be '
                    f'built ({type(e).__name__}: {reason}).') from e


def load_transformer(
  folder: pathlib.Path, dtype: DType = jnp.float32
) -> Model:
  """The Sana transformer in folder/transformer, cast to `dtype`."""
  folder = folder / 'transformer'
  with _reading(folder):
    fields = sana.fields_from_diffusers(read_json(folder / 'config.json'))
    module = Sana(**fields, dtype=dtype)
    tensors = read_tensors(folder, _WEIGHTS['transformer'])
    rules = sana.rules(fields['guidance_embeds'])
    shapes = transformer_shapes(module)
    return Model(module, _cast(
      {'params': table.load(rules, tensors, shapes)}, dtype))


def transformer_shapes(module: Sana) -> PyTree:
  """Shapes of the transformer's parameters; nothing is allocated."""
  return jax.eval_shape(transformer_init(module), jax.random.key(0))


def transformer_init(module: Sana):
  """rng -> parameters; the latents' size does not matter."""
  side = 2 * module.patch_size
  return lambda rng: module.init(
    rng, jnp.zeros((1, side, side, module.in_channels)), jnp.zeros(1),
    jnp.zeros((1, 2, module.caption_channels)), guidance=jnp.zeros(1),
  )['params']


def load_autoencoder(
  folder: pathlib.Path, dtype: DType = jnp.float32
) -> Model:
  """The DC-AE in folder/vae, cast to `dtype`."""
  folder = folder / 'vae'
  with _reading(folder):
    module = DCAE(**dc_ae.fields_from_diffusers(
      read_json(folder / 'config.json')), dtype=dtype)
    tensors = read_tensors(folder, _WEIGHTS['vae'])
    side = module.compression
    shapes = jax.eval_shape(
      module.init, jax.random.key(0),
      jnp.zeros((1, side, side, module.in_channels)))
    return Model(module, _cast(dc_ae.load(tensors, shapes), dtype))


def load_text_encoder(
  folder: pathlib.Path, dtype: DType = jnp.float32
) -> Model:
  """The Gemma-2 in folder/text_encoder, cast to `dtype`."""
  folder = folder / 'text_encoder'
  with _reading(folder):
    module = Gemma2(**gemma2.fields_from_transformers(
      read_json(folder / 'config.json')), dtype=dtype)
    tensors = gemma2.model_tensors(
      read_tensors(folder, _WEIGHTS['text_encoder']))
    shapes = jax.eval_shape(
      module.init, jax.random.key(0), jnp.zeros((1, 2), int),
      jnp.ones((1, 2), bool))['params']
    return Model(module, _cast(
      {'params': table.load(gemma2.RULES, tensors, shapes)}, dtype))


def _cast(variables, dtype):
  return jax.tree.map(
    lambda x: jnp.asarray(
      x, dtype if jnp.issubdtype(x.dtype, jnp.floating) else None), variables)


def write_part(
  folder: pathlib.Path, part: str, config: Mapping[str, Any],
  tensors: Mapping[str, np.ndarray],
) -> None:
  """One of the three models: config.json and its tensors."""
  folder = pathlib.Path(folder) / part
  folder.mkdir(parents=True, exist_ok=True)
  write_json(folder / 'config.json', config)
  safetensors.numpy.save_file(
    {k: np.ascontiguousarray(v) for k, v in tensors.items()},
    folder / f'{_WEIGHTS[part]}.safetensors', metadata={'format': 'pt'})


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Indented JSON with a final newline."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')


def module_fields(module: nn.Module) -> dict[str, Any]:
  """A module's own fields by name."""
  return {f: getattr(module, f) for f in module.__dataclass_fields__
          if f not in ('parent', 'name')}


def write_transformer(folder: pathlib.Path, module: Sana, params) -> None:
  """folder/transformer of a trained Sana."""
  fields = module_fields(module)
  write_part(folder, 'transformer', sana.diffusers_config(fields),
             table.save(sana.rules(fields['guidance_embeds']), params))


def write_index(
  folder: pathlib.Path, *, flow_shift: float, sampling: Mapping[str, Any]
) -> None:
  """model_index.json and the scheduler; the rest is there already.

  `sampling` holds the recommended steps and guidance, for our commands.
  """
  write_json(folder / 'scheduler' / 'scheduler_config.json', {
    '_class_name': 'DPMSolverMultistepScheduler', 'flow_shift': flow_shift,
    'prediction_type': 'flow_prediction', 'use_flow_sigmas': True})
  write_json(folder / 'model_index.json', {
    '_class_name': 'SanaPipeline',
    '_sana_jax': dict(sampling),
    'scheduler': ['diffusers', 'DPMSolverMultistepScheduler'],
    'text_encoder': ['transformers', 'Gemma2Model'],
    'tokenizer': ['transformers', 'GemmaTokenizer'],
    'transformer': ['diffusers', 'SanaTransformer2DModel'],
    'vae': ['diffusers', 'AutoencoderDC']})
