"""LoKr (LyCORIS, arXiv:2309.14859): updates that are Kronecker products.

    W' = W + scale * kron(w1, w2), where w1 and w2 may be products themselves

kron(a b, c d) = kron(a, c) kron(b, d), so that with a decomposition of both
factors it is an ordinary update, of the product of their ranks.
"""

from collections.abc import Mapping

import numpy as np

from sana_jax.errors import UserError


def is_lokr(parts: Mapping[str, np.ndarray]) -> bool:
  """Whether a layer has factors of LoKr."""
  return any(role.startswith('w') for role in parts)


def factors(
  layer: str, parts: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, int | None]:
  """(down, up) of a layer, and the rank that alpha is divided by.

  The rank is that of a factor in two parts; None without one, where alpha has
  no effect. Raises UserError for missing or surplus parts, or an update that
  is not of `shape`: small factors may have a product of any size.
  """
  pairs = [_parts(layer, parts, name) for name in ('w1', 'w2')]
  if unused := set(parts) - {'w1', 'w2', 'w1_a', 'w1_b', 'w2_a', 'w2_b'}:
    raise UserError(
      f'{layer} has {", ".join(sorted(unused))} beside LoKr.',
      key='lora',
      value=layer,
    )
  one, other = pairs
  found = len(one[0]) * len(other[0]), one[-1].shape[1] * other[-1].shape[1]
  if found != shape:
    raise UserError(
      f'{layer} is of another size: LoKr {found}, where {shape} is needed.',
      key='lora',
      value=layer,
      allowed=shape,
    )
  (b1, a1), (b2, a2) = _shortest(*one), _shortest(*other)
  ranks = [len(parts[name]) for name in ('w1_b', 'w2_b') if name in parts]
  return np.kron(a1, a2), np.kron(b1, b2), ranks[0] if ranks else None


def _parts(layer, parts, name):
  """(w,), or (b, a) with b a = w."""
  split = f'{name}_a', f'{name}_b'
  whole, both = name in parts, [x in parts for x in split]
  if whole == all(both) or any(both) != all(both):
    raise UserError(
      f'{layer} must have lokr_{name}, or lokr_{split[0]} and lokr_{split[1]}.',
      key='lora',
      value=layer,
    )
  found = [_matrix(parts[x]) for x in ((name,) if whole else split)]
  if any(x.ndim != 2 or not x.size for x in found) or (
    not whole and found[0].shape[1] != len(found[1])
  ):
    shapes = ' and '.join(str(x.shape) for x in found)
    raise UserError(
      f'{layer}: the parts {shapes} of lokr_{name} are no matrices that can be '
      'multiplied.',
      key='lora',
      value=layer,
      allowed='matrices',
    )
  return found


def _shortest(b, a=None):
  """(b, a) of a rank of at most its sides, the same but for rounding."""
  if a is not None and len(a) <= min(len(b), a.shape[1]):
    return b, a
  w = b if a is None else b @ a
  u, s, v = np.linalg.svd(np.float64(w), full_matrices=False)
  kept = max(1, int(np.sum(s > s[:1] * 1e-7)))
  return np.float32(u[:, :kept] * s[:kept]), np.float32(v[:kept])


def _matrix(x):
  """A factor without the axes of a 1x1 convolution."""
  return x.reshape(x.shape[:2]) if x.size == np.prod(x.shape[:2]) else x
