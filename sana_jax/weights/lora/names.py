"""Names of a transformer's layers in diffusers, and their choice by pattern.

A layer of the blocks has one name for its stack, without the number of the
block: `attn1.to_q` is `transformer_blocks.0.attn1.to_q` and its sisters.
"""

from collections.abc import Iterable, Mapping
import re
from typing import NamedTuple

import flax.linen as nn

from sana_jax.errors import did_you_mean, UserError
from sana_jax.models import abstract, lora
from sana_jax.weights import kinds
from sana_jax.weights.transforms import Transform

BLOCK = 'transformer_blocks.{i}.'
SUFFIX_OF = r'(?:.*\.)?(?:{})'  # A pattern is a name, or its end after a dot.


class Layer(NamedTuple):
  """A layer that can have an adapter.

  Attributes:
    key: its name in diffusers, with {i} for the number of the block.
    shape: of its kernel.
    transform: between the layouts of its weight and its kernel.
  """

  key: str
  shape: tuple[int, ...]
  transform: Transform

  @property
  def name(self) -> str:
    """The name of the layer, or of its stack, in patterns."""
    return self.key.removeprefix(BLOCK)

  @property
  def depth(self) -> int | None:
    """Number of layers in the stack; None for a single layer."""
    return self.shape[0] if '{i}' in self.key else None


def layers(module: nn.Module) -> dict[str, Layer]:
  """Layers of a transformer by our path, in the order of its file."""
  shapes = lora.layers(abstract.transformer(module))
  return {
    path: Layer(rule.key.removesuffix('.weight'), shapes[path], rule.transform)
    for rule in kinds.of_module(module).rules(module)
    if (path := rule.path.removeprefix('params/').removesuffix('/kernel'))
    in shapes
    and rule.path.endswith('/kernel')
  }


def keys(module: nn.Module) -> list[str]:
  """Names of all layers in diffusers, with the numbers of the blocks."""
  return [
    layer.key.format(i=i)
    for layer in layers(module).values()
    for i in range(layer.depth or 1)
  ]


def matches(pattern: str, name: str) -> bool:
  """Whether a pattern is a name, or its end after a dot, as in peft."""
  return re.fullmatch(SUFFIX_OF.format(pattern), name) is not None


def chosen(
  patterns: Iterable[str], names: Iterable[str], key: str
) -> dict[str, str]:
  """The first pattern that matches, by name, of those that one matches.

  Raises UserError for a pattern that matches nothing; `key` is the config's.
  """
  patterns, names, out = tuple(patterns), tuple(names), {}
  for pattern in patterns:
    hits = [name for name in names if matches(pattern, name)]
    if not hits:
      raise unknown(pattern, names, key)
    out |= {name: pattern for name in hits if name not in out}
  return out


def unknown(pattern: str, names: Iterable[str], key: str) -> UserError:
  """Error for a pattern that matches no layer, with the nearest names."""
  names = tuple(dict.fromkeys(names))
  ends = dict.fromkeys(end for name in names for end in _ends(name))
  return UserError(
    f'config.{key}: {pattern!r} matches no layer'
    f'{did_you_mean(pattern, list(ends))}; layers are {", ".join(names)}.',
    key=key,
    value=pattern,
    allowed=names,
  )


def _ends(name):
  parts = name.split('.')
  return ['.'.join(parts[i:]) for i in range(len(parts))]


def by_pattern(
  values: Mapping[str, float], names: Iterable[str], key: str
) -> dict[str, float]:
  """The value of each name that a pattern of `values` matches."""
  found = chosen(values, names, key)
  return {name: values[pattern] for name, pattern in found.items()}
