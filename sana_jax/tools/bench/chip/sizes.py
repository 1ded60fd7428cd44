"""Problem sizes of the stages, for accelerators and for tests on a CPU."""

from collections.abc import Mapping
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Step:
  """Size of a train step.

  Attributes:
    model: one of config.SANA_SIZES, with `changes` to its fields.
    remats: policies to try until one fits into memory.
  """

  model: str
  size: int
  batch: int
  remats: tuple[str, ...]
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of all stages.

  Attributes:
    product: size of the square matrices of a matmul.
    models: (name, pixels, images), whose ops are measured.
    rounds: rounds of a measurement, of which the best counts.
    steps: train steps by the model's name in the table.
    request: (model, pixels, steps) of a request.
  """

  dtype: str
  product: int
  models: tuple[tuple[str, int, int], ...]
  rounds: int
  steps: Mapping[str, Step]
  request: tuple[str, int, int]


FULL = Sizes(
  'bfloat16',
  8192,
  (('sana_1600m_1024', 1024, 16), ('sana_600m_512', 512, 64)),
  5,
  {
    '0.6B': Step('sana_600m_512', 512, 128, ('dots', 'full')),
    '1.6B': Step('sana_1600m_1024', 1024, 32, ('dots', 'full')),
  },
  ('sana_1600m_1024_bf16', 1024, 20),
)
_NARROW = dict(
  width=32,
  depth=1,
  cross_heads=2,
  head_dim=8,
  in_channels=4,
  out_channels=4,
  caption_channels=8,
)
TINY = Sizes(
  'float32',
  256,
  (('sana_600m_512', 64, 1),),
  1,
  {
    '0.6B': Step('sana_600m_512', 64, 2, ('none',), _NARROW),
    '1.6B': Step('sana_1600m_1024', 64, 2, ('none',), _NARROW),
  },
  ('shapes', 128, 2),
)


def of(backend: str) -> Sizes:
  """Sizes for a backend; TINY for a CPU."""
  return TINY if backend == 'cpu' else FULL
