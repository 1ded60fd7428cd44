"""Parity of CLIP with transformers' CLIPModel, and of OpenAI's names.

The tensors with OpenAI's names are a restatement of transformers' ones, as
OpenAI's code is no package.
"""

from collections.abc import Mapping
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
import transformers

from sana_jax.models import abstract
from sana_jax.models.clip import CLIP
from sana_jax.tools.parity import references
from sana_jax.tools.parity.ledger import Case, MODULE
from sana_jax.typing import PyTree
from sana_jax.weights import clip as weights
from sana_jax.weights import clip_rules, table
from sana_jax.weights.tensors import Stored, stored

AREA = 'clip'
_EOS = 50  # Not the highest id, which is another rule for the end.
_LEGACY_EOS = 2  # Value of OpenAI's own configs, for the highest id.
# Heads of 64 channels, as in OpenAI's models.
TINY_VISION = dict(
  hidden_size=128,
  intermediate_size=96,
  num_hidden_layers=3,
  num_attention_heads=2,
  image_size=32,
  patch_size=8,
)
TINY_TEXT = dict(
  hidden_size=64,
  intermediate_size=80,
  num_hidden_layers=2,
  num_attention_heads=1,
  vocab_size=99,
  max_position_embeddings=12,
  eos_token_id=_EOS,
)
GELU = dict(hidden_act='gelu', layer_norm_eps=1e-3)
# ViT-L/14, but for its depth.
FULL_VISION = dict(
  hidden_size=1024,
  intermediate_size=4096,
  num_hidden_layers=2,
  num_attention_heads=16,
  image_size=224,
  patch_size=14,
)
FULL_TEXT = dict(
  hidden_size=768,
  intermediate_size=3072,
  num_hidden_layers=2,
  num_attention_heads=12,
  vocab_size=49_408,
  max_position_embeddings=77,
  eos_token_id=_LEGACY_EOS,
)
_METHODS = {
  'image features': 'image_features',
  'text features': 'text_features',
  'score': '__call__',
}


def cases() -> list[Case]:
  """Cases of features and scores, tiny and of published width."""
  case = functools.partial(
    Case, AREA, dtype='float32', bound=MODULE, against='transformers'
  )
  variants = {
    '': {},
    'exact GELU': dict(changes=GELU),
    'end of text by the highest id': dict(eos=_LEGACY_EOS),
    "OpenAI's names": dict(openai=True, eos=_LEGACY_EOS),
  }
  return [
    *(
      case(
        ', '.join(filter(None, (what, variant))),
        size='tiny',
        measure=functools.partial(measure, method=method, **more),
      )
      for variant, more in variants.items()
      for what, method in _METHODS.items()
    ),
    *(
      case(
        what,
        size='full width, 2 layers',
        quick=False,
        measure=functools.partial(measure, method=method, full=True),
      )
      for what, method in _METHODS.items()
    ),
  ]


def make(
  seed: int,
  changes: Mapping[str, Any] | None = None,
  eos: int = _EOS,
  full: bool = False,
) -> transformers.CLIPModel:
  """transformers' model with random weights.

  Args:
    changes: changes to the config of both towers.
    eos: the config's id of the end of a text.
  """
  torch.manual_seed(seed)
  vision, text = (
    (FULL_VISION, FULL_TEXT)
    if full
    else (TINY_VISION, {**TINY_TEXT, 'eos_token_id': eos})
  )
  changes = changes or {}
  config = transformers.CLIPConfig(
    vision_config={**vision, **changes},
    text_config={**text, **changes},
    projection_dim=768 if full else 24,
    attn_implementation='eager',
  )
  return references.randomise(transformers.CLIPModel(config))


def openai_names(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
  """The tensors of a state dict of transformers as OpenAI's code has them."""
  old = {name: tensor.read() for name, tensor in tensors.items()}
  new = {
    'visual.class_embedding': 'vision_model.embeddings.class_embedding',
    'visual.conv1.weight': 'vision_model.embeddings.patch_embedding.weight',
    'visual.positional_embedding': (
      'vision_model.embeddings.position_embedding.weight'
    ),
    'token_embedding.weight': 'text_model.embeddings.token_embedding.weight',
    'positional_embedding': 'text_model.embeddings.position_embedding.weight',
    'logit_scale': 'logit_scale',
  }
  out = {name: old[before] for name, before in new.items()}
  out['visual.proj'] = old['visual_projection.weight'].T
  out['text_projection'] = old['text_projection.weight'].T
  for kind in 'weight', 'bias':
    for name, before in {
      'visual.ln_pre': 'vision_model.pre_layrnorm',
      'visual.ln_post': 'vision_model.post_layernorm',
      'ln_final': 'text_model.final_layer_norm',
    }.items():
      out[f'{name}.{kind}'] = old[f'{before}.{kind}']
  for name in old:
    start, found, _ = name.rpartition('.layer_norm1.weight')
    if found:
      tower, _, index = start.rpartition('.encoder.layers.')
      first = {'vision_model': 'visual.', 'text_model': ''}[tower]
      _add_block(out, f'{first}transformer.resblocks.{index}', old, start)
  return {name: stored(np.array(x, order='C')) for name, x in out.items()}


def _add_block(out, name, old, before):
  for kind in 'weight', 'bias':
    out[f'{name}.attn.in_proj_{kind}'] = np.concatenate(
      [old[f'{before}.self_attn.{x}_proj.{kind}'] for x in 'qkv']
    )
    for part, was in {
      'attn.out_proj': 'self_attn.out_proj',
      'mlp.c_fc': 'mlp.fc1',
      'mlp.c_proj': 'mlp.fc2',
      'ln_1': 'layer_norm1',
      'ln_2': 'layer_norm2',
    }.items():
      out[f'{name}.{part}.{kind}'] = old[f'{before}.{was}.{kind}']


def converted(
  config: Mapping[str, Any], tensors: Mapping[str, Stored]
) -> tuple[CLIP, PyTree]:
  """sana_jax's model with these weights, of either kind of names."""
  tensors = clip_rules.model_tensors(tensors)
  openai = clip_rules.is_openai(tensors)
  if openai:
    config = weights.openai_config(tensors)
  module = CLIP(**weights.fields_from_transformers(config))
  rules = clip_rules.OPENAI_RULES if openai else clip_rules.RULES
  shapes = abstract.clip(module)
  return module, table.load(rules, tensors, shapes, jnp.float32)


def inputs(seed: int, model: transformers.CLIPModel):
  """Normalised images, and ids of texts that end at different places."""
  vision, text = model.config.vision_config, model.config.text_config
  rng, side = np.random.default_rng(seed), vision.image_size
  images = rng.normal(size=(3, side, side, 3)).astype(np.float32)
  ids = rng.integers(3, text.vocab_size - 1, (3, text.max_position_embeddings))
  ids[ids == text.eos_token_id] += 1
  legacy = text.eos_token_id == _LEGACY_EOS
  last = text.vocab_size - 1 if legacy else text.eos_token_id
  for row, end in zip(ids, (ids.shape[1] - 1, 4, 1)):
    row[end] = last
  return images, ids.astype(np.int32)


def measure(
  seed: int,
  method: str,
  changes: Mapping[str, Any] | None = None,
  eos: int = _EOS,
  full: bool = False,
  openai: bool = False,
) -> float:
  """Error of the features or of the score, exp(logit_scale) cos."""
  facts = {}

  def build():
    model = make(seed, changes, eos, full)
    facts['config'] = model.config.to_dict()
    facts['images'], facts['ids'] = inputs(seed, model)
    return model

  def theirs(model):
    images = torch.tensor(references.channels_first(facts['images']).copy())
    ids = torch.tensor(facts['ids']).long()
    if method == 'image_features':
      return references.as_array(model.get_image_features(images).pooler_output)
    if method == 'text_features':
      return references.as_array(model.get_text_features(ids).pooler_output)
    scores = model(input_ids=ids, pixel_values=images).logits_per_image
    return references.as_array(torch.diagonal(scores))

  def ours(tensors):
    if openai:
      tensors = openai_names(tensors)
    module, variables = converted(facts['config'], tensors)
    given = {
      'image_features': (facts['images'],),
      'text_features': (facts['ids'],),
      '__call__': (facts['images'], facts['ids']),
    }[method]
    return lambda: references.apply(module, variables, *given, method=method)

  return references.compare(AREA, jnp.float32, build, theirs, ours)
