"""Stages in order of value, with their budgets and required packages."""

from collections.abc import Callable, Iterator, Mapping
import importlib
import importlib.util
from typing import Any, NamedTuple

from sana_jax.tools.bench.chip.sizes import Sizes

# Result of a stage: values by row name. A repeated row replaces the earlier
# one.
Row = tuple[str, dict[str, Any]]
_HERE = 'sana_jax.tools.bench.chip'
# Required modules; PACKAGES names the package if it differs.
_OPERATIONS = (
  'absl',
  'einops',
  'etils',
  'flax',
  'jax',
  'jaxtyping',
  'ml_collections',
  'numpy',
  'optax',
  'PIL',
  'safetensors',
  'tqdm',
)
_STEP = (*_OPERATIONS, 'array_record', 'grain', 'orbax', 'scipy', 'tensorstore')
_REQUEST = (*_OPERATIONS, 'scipy', 'tokenizers', 'transformers')
_TORCH = ('torch', 'diffusers', *_REQUEST)
PACKAGES = {'absl': 'absl-py', 'PIL': 'pillow', 'orbax': 'orbax-checkpoint'}


class Stage(NamedTuple):
  """A function and its arguments.

  Attributes:
    function: 'module:name'; it takes (budget, sizes, earlier, *arguments)
      and yields rows.
    budget: maximum seconds.
    needs: required modules.
  """

  name: str
  function: str
  budget: int
  needs: tuple[str, ...]
  arguments: tuple[Any, ...] = ()

  def run(
    self, budget: Callable[[], float], sizes: Sizes, earlier: Mapping[str, Any]
  ) -> Iterator[Row]:
    """Imports and calls the function.

    Args:
      budget: returns the remaining seconds.
      earlier: rows of earlier stages, by stage.
    """
    module, name = self.function.split(':')
    function = getattr(importlib.import_module(module), name)
    return function(budget, sizes, earlier, *self.arguments)

  @property
  def missing(self) -> list[str]:
    """Required packages that are not installed."""
    return [
      PACKAGES.get(name, name)
      for name in self.needs
      if importlib.util.find_spec(name) is None
    ]


RATES = Stage(
  'device rates', f'{_HERE}.rates:measure', 45, ('absl', 'jax', 'numpy')
)
TILES = 'tiles'
STAGES = (
  RATES,
  *(
    Stage(op, f'{_HERE}.operations:measure', 60, _OPERATIONS, (op,))
    for op in ('relu_linear_attention', 'glumb_conv')
  ),
  *(
    Stage(f'{TILES} of {op}', f'{_HERE}.tiles:tune', 50, _OPERATIONS, (op,))
    for op in ('relu_linear_attention', 'glumb_conv')
  ),
  *(
    Stage(
      f'step of the {model}, kernels {side}',
      f'{_HERE}.train_step:measure',
      110,
      _STEP,
      (model, side),
    )
    for model in ('0.6B', '1.6B')
    for side in ('off', 'on')
  ),
  *(
    Stage(
      f'request of {batch}, {side}',
      f'{_HERE}.request:{function}',
      100,
      needs,
      (batch,),
    )
    for batch in (1, 8)
    for side, function, needs in (
      ('sana_jax', 'jax_stages', _REQUEST),
      ('diffusers', 'diffusers_stages', _TORCH),
    )
  ),
)
