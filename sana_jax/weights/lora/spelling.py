"""Spellings of the keys of adapter files.

    diffusers      transformer.NAME.lora_A.weight, .lora_B.weight
    old diffusers  transformer.NAME.lora.down.weight, .lora.up.weight
    peft           base_model.model.NAME.lora_A.weight
    ComfyUI        diffusion_model.NAME.lora_A.weight, or .lora_down.weight
    kohya          lora_unet_NAME_WITH_UNDERSCORES.lora_down.weight, .alpha

NAME is diffusers' or NVIDIA's. Any prefix may go with any ending. Endings are
also those of DoRA (`.lora_magnitude_vector`, `.dora_scale`) and of LoKr
(`.lokr_w1`, or its factors `.lokr_w1_a` and `.lokr_w1_b`).
"""

from collections.abc import Iterable
import functools
import re
from typing import NamedTuple

import flax.linen as nn

from sana_jax.models.sana import Sana
from sana_jax.weights import official
from sana_jax.weights.lora import names

# Prefix -> (spelling, whether dots of names are underscores).
_PREFIXES = {
  'base_model.model.': ('peft', False),
  'model.diffusion_model.': ('ComfyUI', False),
  'diffusion_model.': ('ComfyUI', False),
  'transformer.': ('diffusers', False),
  'lora_unet_': ('kohya', True),
  'lora_transformer_': ('kohya', True),
  'lycoris_': ('LyCORIS', True),
}
_ENDINGS = {
  'down': r'(?:lora_A(?:\.\w+)?|lora\.down|lora_down)\.weight',
  'up': r'(?:lora_B(?:\.\w+)?|lora\.up|lora_up)\.weight',
  'alpha': r'(?:lora_)?alpha',
  'magnitude': r'lora_magnitude_vector(?:\.\w+)*',
  'dora_scale': r'dora_scale',
  'lokr': r'lokr_(?P<part>w[12](?:_[ab])?)(?:\.\w+)*',
}
_TENSOR = re.compile(
  r'(?P<name>.+?)\.(?:'
  + '|'.join(f'(?P<{role}>{ending})' for role, ending in _ENDINGS.items())
  + ')'
)


class Spelled(NamedTuple):
  """A key, taken apart.

  Attributes:
    spelling: one of those above, or 'no prefix'.
    name: name of the layer; with underscores if `flat`.
    role: 'down', 'up', 'alpha', 'magnitude', 'dora_scale', or a part of LoKr.
  """

  spelling: str
  name: str
  role: str
  flat: bool = False


def parsed(key: str) -> Spelled | None:
  """The parts of a key; None if it ends like no part of an adapter."""
  match = _TENSOR.fullmatch(key)
  if match is None:
    return None
  role = next(role for role in _ENDINGS if match[role])
  name, spelling, flat = match['name'], 'no prefix', False
  while prefix := next((p for p in _PREFIXES if name.startswith(p)), None):
    name = name.removeprefix(prefix)
    spelling, flat = _PREFIXES[prefix]
  if spelling == 'diffusers' and '.lora.' in key:
    spelling = 'old diffusers'
  return Spelled(spelling, name, match['part'] or role, flat)


def spellings(keys: Iterable[str]) -> list[str]:
  """Spellings of these keys, as far as they are known."""
  found = (parsed(key) for key in keys)
  return list(dict.fromkeys(part.spelling for part in found if part))


class Names(NamedTuple):
  """Layers of a model by the names in files.

  Attributes:
    dotted, flat: name -> the layers' names in diffusers; a fused projection of
      NVIDIA has several, which are its row blocks.
  """

  dotted: dict[str, tuple[str, ...]]
  flat: dict[str, tuple[str, ...]]

  def find(self, part: Spelled) -> tuple[str, ...] | None:
    """Layers of a key, or None if the model has none of that name."""
    return (self.flat if part.flat else self.dotted).get(part.name)


@functools.lru_cache(maxsize=8)
def names_of(module: nn.Module) -> Names:
  """Names of a transformer's layers in diffusers' and NVIDIA's files.

  The time's layers have another name in a Sprint than in its teacher; both are
  accepted, so that an adapter of one fits the other.
  """
  own = names.keys(module)
  found = {name: (name,) for name in own}
  for name in own:
    if name.startswith('time_embed.timestep_embedder'):
      found[name.replace('embed.', 'embed.emb.', 1)] = (name,)
    elif name.startswith('time_embed.emb.'):
      found[name.replace('.emb.', '.', 1)] = (name,)
  if isinstance(module, Sana):
    found |= _official(module, set(own))
  return Names(found, {k.replace('.', '_'): x for k, x in found.items()})


def _official(module, own):
  rows = official.transformer_rows(
    module.depth,
    norm=False,
    guidance=module.guidance_embeds,
    logvar=module.logvar,
  )
  cut = lambda name: name.removesuffix('.weight')
  return {
    cut(row.official): layers
    for row in rows
    if row.official.endswith('.weight')
    and own.issuperset(layers := tuple(map(cut, row.diffusers)))
  }
