"""Conversion of models between formats, with little memory.

  diffusers folder ─┐                 ┌─▶ diffusers folder
  official .pth ────┼─▶ Source(parts)─┼─▶ official .pth
  Orbax folder ─────┘                 └─▶ Orbax folder

Parts have diffusers' config and tensors with diffusers' names, the intermediate
format of every conversion. Tensors are lazy: one at a time is in memory.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sana_jax.errors import UserError
from sana_jax.models.autoencoders.dc_ae import SIZES
from sana_jax.printable import printable
from sana_jax.text import tokenizer_files
from sana_jax.typing import DType
from sana_jax.weights import (
  copying,
  dc_ae,
  efficientvit,
  hub,
  kinds,
  native,
  native_shapes,
  official,
  pth,
  safetensors_files,
  table,
  weight_files,
  wrapped,
)
from sana_jax.weights import folder as folders
from sana_jax.weights.tensors import Stored, stored

FORMATS = ('diffusers', 'official', 'orbax')
_FILES = ('.pth', '.pt', '.ckpt', '.bin', '.safetensors')
# Other files and folders of a model folder, which are copied unchanged.
_OTHERS = ('model_index.json', 'scheduler', 'tokenizer')


class Part(NamedTuple):
  """One model: diffusers' config, and tensors with diffusers' names."""

  config: Mapping[str, Any]
  tensors: Mapping[str, Stored]


@dataclasses.dataclass(frozen=True)
class Source:
  """Models by part, and the folder that contains them."""

  parts: Mapping[str, Part]
  folder: pathlib.Path | None = None


def open_source(
  name: str,
  *,
  ema: bool = False,
  configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Source:
  """Opens a model folder, a hub id, a zoo name, the folder of a part or a file.

  Args:
    name: path or name of the source.
    ema: whether to read the EMA weights of an official file with both.
    configs: configs of the parts of a file, which contains none; missing ones
      are inferred.

  Raises:
    UserError: it is none of these, or does not match its config.
  """
  path = hub.local(name)
  if path.suffix in _FILES and not path.is_dir():
    source = Source(_read_file(path, ema, configs or {}))
  else:
    source = _read_folder(hub.find(name))
  for part, model in source.parts.items():
    check(part, model, name)
  return source


def _read_folder(folder):
  if (folder / 'model_index.json').is_file():
    names = [p for p in kinds.PARTS if (folder / p / 'config.json').is_file()]
    if names:
      return Source({p: _read_part(folder / p, p) for p in names}, folder)
  if (folder / 'config.json').is_file():
    config = folders.read_json(folder / 'config.json')
    if part := kinds.part_of(config):
      return Source({part: _read_part(folder, part)})
  raise UserError(
    f'{folder} contains no supported model: neither '
    'model_index.json nor a config.json of one of '
    f'{", ".join(kinds.names())}.',
    value=folder,
    allowed=kinds.names(),
  )


def _read_part(folder, part):
  config = folders.read_json(folder / 'config.json')
  kind = kinds.of_config(config, part)
  if not native.holds(folder):
    tensors = weight_files.read(folder, kind.stem)
    return Part(config, kind.prepare(tensors))
  with folders.reading(folder):
    module = kind.module(config, jnp.float32)
    shapes = folders.shapes_of(kind, module, None)
    native_shapes.check(folder, shapes)
    variables = native.load(folder, shapes, None)
  saved = table.save(kind.rules(module), variables)
  return Part(config, {k: stored(np.asarray(x)) for k, x in saved.items()})


def _read_file(path, ema, configs):
  """Models of an official file, identified by the names of their tensors."""
  if not path.is_file():
    raise UserError(
      f'There is no file {path}; check the name.',
      value=path,
      allowed='existing files',
    )
  tensors = (
    safetensors_files.read_file(path)
    if path.suffix == '.safetensors'
    else pth.read(path, ema=ema)
  )
  tensors = wrapped.without_prefixes(tensors, str(path))
  if official.matches(tensors):
    return {
      part: Part(
        configs.get(part) or official.config(part, named, tensors), named
      )
      for part, named in official.to_diffusers(tensors).items()
    }
  if efficientvit.matches(tensors):
    named = efficientvit.to_diffusers(tensors)
    return {
      'vae': Part(configs.get('vae') or _autoencoder_config(named), named)
    }
  raise UserError(
    f'{path} contains no SANA, ControlNet or DC-AE with official '
    f'names, but {printable(", ".join(sorted(tensors)[:3]), 200)}'
    ', …; give another file.'
  )


def _autoencoder_config(tensors):
  """Config of the published variant with these shapes."""
  shapes = {key: t.shape for key, t in tensors.items()}
  configs = {
    name: dc_ae.diffusers_config(fields) for name, fields in SIZES.items()
  }
  fitting = [
    name
    for name, config in configs.items()
    if folders.file_shapes('vae', config) == shapes
  ]
  if len(fitting) != 1:
    raise UserError(
      'The weights fit '
      + (
        f'{" and ".join(fitting)}, which differ in their scaling factor'
        if fitting
        else 'no published DC-AE'
      )
      + ', so its config cannot be '
      'inferred: use --like NAME of sana-jax zoo, or --base with a model of '
      'the same config.'
    )
  return configs[fitting[0]]


def check(part: str, model: Part, name: str) -> None:
  """Raises UserError unless the tensors are those of the config's model."""
  with folders.reading(pathlib.Path(name) / part):
    kind = kinds.of_config(model.config, part)
    module = kind.module(model.config, jnp.float32)
    shapes = folders.shapes_of(kind, module, model.tensors)
    table.match(kind.rules(module), model.tensors, shapes)


def cast(tensors: Mapping[str, Stored], dtype: DType) -> dict[str, Stored]:
  """The tensors with floating ones in `dtype`, cast when they are read."""

  def one(tensor):
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
      return tensor
    return Stored(
      tensor.shape,
      np.dtype(dtype),
      lambda a, b: tensor.fetch(a, b).astype(dtype),
    )

  return {key: one(tensor) for key, tensor in tensors.items()}


def write(source: Source, out: pathlib.Path, fmt: str) -> None:
  """Writes `out`, a folder (or an official file), atomically."""
  partial = out.with_name(f'.{out.name}.partial')
  remove(partial)
  try:
    partial.parent.mkdir(parents=True, exist_ok=True)
    _WRITERS[fmt](source, partial)
    partial.replace(out)
  finally:
    remove(partial)


def remove(path: pathlib.Path) -> None:
  """Removes a file or a folder, if it exists."""
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def _write_diffusers(source, out):
  _copy_others(source, out)
  for part, model in source.parts.items():
    folders.write_part(out, part, model.config, model.tensors)


def _write_orbax(source, out):
  _copy_others(source, out)
  for part, model in source.parts.items():
    kind = kinds.of_config(model.config, part)
    folders.write_json(out / part / 'config.json', model.config)
    module = kind.module(model.config, jnp.float32)
    variables = table.load(
      kind.rules(module), model.tensors, kind.shapes(module)
    )
    native.save(out / part, variables)


def _write_official(source, out):
  if tuple(source.parts) == ('vae',):
    pth.write(
      out,
      efficientvit.from_diffusers(
        source.parts['vae'].tensors, source.parts['vae'].config
      ),
    )
    return
  pth.write(
    out,
    official.from_diffusers(
      {part: model.tensors for part, model in source.parts.items()}
    ),
  )


_WRITERS = {
  'diffusers': _write_diffusers,
  'official': _write_official,
  'orbax': _write_orbax,
}


def _copy_others(source, out):
  if source.folder is None:
    return
  if os.path.lexists(source.folder / 'tokenizer'):
    tokenizer_files.read(
      source.folder / 'tokenizer'
    )  # Raises for one with code.
  for name in _OTHERS:
    copying.copy(source.folder, name, out)
  index = out / 'model_index.json'
  transformer = source.parts.get('transformer')
  if not index.exists() or transformer is None:
    return
  is_sprint = 'Sprint' in str(folders.read_json(index).get('_class_name'))
  if transformer.config.get('guidance_embeds') and not is_sprint:
    folders.index_sprint(out)  # The other parts are of a SANA's folder.
  if 'controlnet' in source.parts:
    folders.index_controlnet(out, source.parts['controlnet'].config)
