"""Checks of a pipeline's folder before any weights are read."""

import pathlib
from typing import Any

from sana_jax import fields
from sana_jax.errors import UserError
from sana_jax.text.vocabulary import Vocabulary
from sana_jax.weights import folder as folders

_SPRINTS = ('SanaSprintPipeline', 'SanaSprintImg2ImgPipeline')
CONTROLNET = 'SanaControlNetPipeline'
_CLASSES = ('SanaPipeline', 'SanaPAGPipeline', CONTROLNET, *_SPRINTS)
_RECOMMENDED = {
  'steps': fields.integer(1, 1000),
  'guidance_scale': fields.number(0, 1000),
}
_VOCABULARY = {
  'words': fields.list_of(fields.text(100), 0, 100_000),
  'examples': fields.list_of(fields.text(1000), 0, 20),
}


def read(folder: pathlib.Path) -> dict[str, Any]:
  """Recommended steps and guidance in a folder's model_index.json.

  Nothing else of it is used: each part's config.json names its class.

  Raises UserError for another pipeline's folder, or values out of range.
  """
  return {k: v for k, v in _section(folder).items() if k in _RECOMMENDED}


def vocabulary(folder: pathlib.Path) -> Vocabulary:
  """Words and examples in a folder's model_index.json; like `read`."""
  section = _section(folder)
  return Vocabulary(*(tuple(section.get(key, ())) for key in _VOCABULARY))


def _section(folder):
  """Values that our own commands read, checked."""
  path = folder / 'model_index.json'
  index = folders.read_json(path)
  if index.get('_class_name') not in _CLASSES:
    raise UserError(
      f'{folder} is a {fields.shown(index.get("_class_name"))}; '
      'SanaPipeline, SanaControlNetPipeline and SanaSprintPipeline are '
      'supported.',
      key='_class_name',
      value=index.get('_class_name'),
      allowed=_CLASSES,
    )
  section = index.get('_sana_jax', {})
  if not isinstance(section, dict):
    raise UserError(
      f'{path}: _sana_jax is {fields.shown(section)}, allowed is an object.',
      key='_sana_jax',
      value=section,
      allowed='an object',
    )
  fields.check(f'{path}, _sana_jax', section, _RECOMMENDED | _VOCABULARY)
  return section


def has_controlnet(folder: pathlib.Path) -> bool:
  """Whether the folder is that of a pipeline with a ControlNet."""
  index = folders.read_json(folder / 'model_index.json')
  return index.get('_class_name') == CONTROLNET


def check_parts(folder: pathlib.Path, tokenizer: Any) -> None:
  """Raises UserError if the parts of a folder belong to different models."""
  transformer, autoencoder, text_encoder = (
    folders.describe(folder, part)
    for part in ('transformer', 'vae', 'text_encoder')
  )
  for what, got, wanted in (
    (
      'the transformer reads texts of width',
      transformer.caption_channels,
      text_encoder.width,
    ),
    (
      'the transformer reads latents of width',
      transformer.in_channels,
      autoencoder.spec.channels,
    ),
    (
      'the transformer makes latents of width',
      transformer.out_channels,
      autoencoder.spec.channels,
    ),
    ('the autoencoder makes images of channels', autoencoder.in_channels, 3),
  ):
    if got != wanted:
      raise UserError(
        f'{folder} mixes two models: {what} {got:,}, where '
        f'{wanted:,} is needed.',
        value=got,
        allowed=(wanted,),
      )
  _check_guidance(folder, transformer)
  if len(tokenizer) > text_encoder.vocab_size:
    raise UserError(
      f'{folder} mixes two models: the tokenizer has {len(tokenizer):,} '
      f'tokens, the text encoder {text_encoder.vocab_size:,}.',
      key='vocab_size',
      value=text_encoder.vocab_size,
      allowed=f'{len(tokenizer)} or more',
    )


def _check_guidance(folder, transformer):
  """Raises UserError for a SANA-Sprint without an input for the guidance."""
  name = folders.read_json(folder / 'model_index.json')['_class_name']
  if name in _SPRINTS and not transformer.guidance_embeds:
    raise UserError(
      f'{folder} is a {name} whose transformer has no embedding of the '
      'guidance scale; guidance_embeds must be true in its config.json.',
      key='guidance_embeds',
      value=False,
      allowed=(True,),
    )
