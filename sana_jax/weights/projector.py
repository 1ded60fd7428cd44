"""NVILA's projector: kinds and tensors of NVlabs/VILA's base_projector.py.

Its layers are a Sequential: one that merges patches, then a norm, a dense layer
and a GELU each, and a dense layer at the end.
"""

from collections.abc import Mapping
from typing import Any

from sana_jax import fields
from sana_jax.weights.table import Rule
from sana_jax.weights.transforms import LINEAR

# Patches along a token's side, and outputs of the dense layers but the last
# two, which are the language model's, in thirds of the tower's width.
KINDS = {
  'mlp_downsample_2x2_fix': (2, ()),
  'mlp_downsample_3x3_fix': (3, (9,)),
  'mlp_downsample_3x3_s2': (3, (9, 3, 1)),
  'mlp_downsample_3x3_s2_new': (3, (12, 6, 3, 1)),
}
_ALLOWED = {
  'mm_projector_type': fields.choice(*KINDS),
  'model_type': fields.choice('v2l_projector'),
}


def fields_from_config(
  config: Mapping[str, Any], inputs: int, outputs: int
) -> dict[str, Any]:
  """Fields of `Projector`; UserError for another kind.

  Args:
    inputs: width of the tower's features, of all scales.
    outputs: width of the language model.
  """
  where = 'mm_projector/config.json'
  fields.check(where, {'mm_projector_type': None, **config}, _ALLOWED)
  merge, thirds = KINDS[config['mm_projector_type']]
  widths = [inputs * n // 3 for n in thirds]
  return {'merge': merge, 'widths': (*widths, outputs, outputs)}


def rules(layers: int) -> list[Rule]:
  """Rules of a projector with this many dense layers."""
  found = []
  for i in range(layers):
    last = i == layers - 1
    norm, linear = f'layers.{1 + 3 * i}', f'layers.{3 * i + 2 - last}'
    found += [
      Rule(f'{linear}.weight', f'linear{i}/kernel', LINEAR),
      Rule(f'{linear}.bias', f'linear{i}/bias'),
    ]
    if not last:
      found += [
        Rule(f'{norm}.weight', f'norm{i}/scale'),
        Rule(f'{norm}.bias', f'norm{i}/bias'),
      ]
  return found
