"""Deeper transformers from trained ones (SANA-1.5, arXiv:2501.18427, 2.1).

    trained blocks 0 ... n-1  ->  the same blocks, and new ones up to a depth

Strategies and their constants are those of NVlabs/Sana,
diffusion/model/model_growth_utils.py, of which `constant` is the paper's:

    constant       zero output projections, so that a new block is the identity;
                   norms of 1, depthwise convolutions normal of 0.2, else 0.02
    cyclic         block i is block i mod n
    block_expand   block k becomes depth / n adjacent ones
    progressive    block i is block i - 1 plus normal noise of 0.01
    interpolation  block i lies between blocks floor(i n / depth) and the next
    random         the initialization of a model trained from nothing

The paper drops the last 2 of 20 blocks first, since their outputs bypass new
ones. A zero gate makes the copies of `cyclic` and `block_expand` the identity.
Here queries, keys and values are separate tensors. Everything is computed when
a tensor is read, a few rows at a time.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.config.growth import STRATEGIES
from sana_jax.errors import UserError
from sana_jax.models.block import Block, BlockFields
from sana_jax.printable import counted
from sana_jax.tree import leaves
from sana_jax.weights import blocks, sana
from sana_jax.weights.tensors import Stored

_NORMAL, _DEPTHWISE, _NOISE = 0.02, 0.2, 0.01
_ATTENTIONS = 'attn1', 'attn2'
_OUTPUTS = (
  *(f'{x}.to_out.0.weight' for x in _ATTENTIONS),
  'ff.conv_point.weight',
)
_OUTPUT_BIASES = tuple(f'{x}.to_out.0.bias' for x in _ATTENTIONS)
_TEXT_BIASES = tuple(f'attn2.to_{x}.bias' for x in 'qkv')
_NORMS = tuple(f'{x}.norm_{y}.weight' for x in _ATTENTIONS for y in 'qk')
_GATES = ('scale_shift_table', *_OUTPUTS, *_OUTPUT_BIASES)

# (name of a tensor, its shape) -> independent standard normal numbers.
Draw = Callable[[str, tuple[int, ...]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Growth:
  """Depth of the result, and initial values of its new blocks.

  Attributes:
    drop: number of last trained blocks that are not kept.
    zero_gate: whether copied blocks are the identity.
    seed: of random values.
  """

  depth: int
  strategy: str = 'constant'
  drop: int = 0
  zero_gate: bool = False
  seed: int = 0


class _Trained(NamedTuple):
  """The kept blocks, and what new ones are made of."""

  blocks: Sequence[blocks.Block]
  module: nn.Module
  growth: Growth
  draw: Draw

  @property
  def depth(self) -> int:
    return len(self.blocks)

  def normal(self, index: int, name: str, like: Stored) -> np.ndarray:
    return self.draw(f'{blocks.PREFIX}{index}.{name}', like.shape)


def grown(
  config: Mapping[str, Any],
  tensors: Mapping[str, Stored] | None,
  growth: Growth,
  draw: Draw | None = None,
  named: Callable[[str], str] | None = None,
) -> tuple[dict[str, Any], dict[str, Stored]]:
  """Config and tensors of the deeper transformer; nothing is read.

  Args:
    draw: random numbers, by default of the growth's seed.
    named: name of a field of the growth in errors, by default its flag.

  Raises:
    UserError: for another model, and for a growth that it does not allow.
  """
  if tensors is None:
    raise UserError(
      'The weights are in our own format, which is not read tensor by tensor; '
      'convert the model with sana-jax convert --format diffusers first.',
      key='init_from',
      allowed=('diffusers',),
    )
  module, found, others = blocks.trained(config, tensors)
  check(growth, module.depth, named)
  kept = found[: module.depth - growth.drop]
  draw = draw or functools.partial(normal, growth.seed)
  source = _Trained(kept, module, growth, draw)
  block = _STRATEGIES[growth.strategy]
  made = [
    kept[i]
    if i < len(kept) and growth.strategy != 'block_expand'
    else block(source, i)
    for i in range(growth.depth)
  ]
  return blocks.joined(config, made, others)


def check(
  growth: Growth, depth: int, named: Callable[[str], str] | None = None
) -> None:
  """Raises UserError unless a model of `depth` blocks can grow so."""
  kept, want = depth - growth.drop, growth.depth
  named = named or as_flag
  if growth.strategy not in STRATEGIES:
    raise _refused(named, growth, 'strategy', f'one of {", ".join(STRATEGIES)}')
  if not 0 <= growth.drop < depth:
    raise _refused(
      named, growth, 'drop', f'0 to {depth - 1}, so that one stays'
    )
  if want <= kept:
    raise _refused(
      named,
      growth,
      'depth',
      f'more than the {counted(kept, "block")} that are kept',
    )
  if growth.strategy == 'block_expand' and want % kept:
    raise _refused(named, growth, 'depth', f'multiples of {kept}')
  if growth.zero_gate and growth.strategy not in ('cyclic', 'block_expand'):
    raise _refused(
      named, growth, 'zero_gate', 'false, except for cyclic and block_expand'
    )


def as_flag(field: str) -> str:
  """The flag of a field of a growth."""
  return '--' + field.replace('_', '-')


def as_key(field: str) -> str:
  """The config key of a field of a growth."""
  return 'config.' + ('model.depth' if field == 'depth' else f'grow.{field}')


def _refused(named, growth, field, allowed):
  name, value = named(field), getattr(growth, field)
  key = name.removeprefix('config.')
  return UserError(
    f'{name} is {value!r}; allowed: {allowed}.',
    key=key,
    value=value,
    allowed=allowed,
  )


def normal(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Standard normal numbers that the seed and the name determine."""
  rng = np.random.default_rng([seed, *name.encode()])
  return rng.standard_normal(shape, np.float32)


def _lazy(like: Stored, rows: Callable[[int, int], np.ndarray]) -> Stored:
  """A tensor whose rows are computed when it is read."""
  return Stored(
    like.shape, like.dtype, lambda a, b: rows(a, b).astype(like.dtype)
  )


def _filled(like, value):
  return _lazy(
    like, lambda a, b: np.full((b - a, *like.shape[1:]), value, np.float32)
  )


def _constant(source, index):
  def one(name, like):
    if name in (*_OUTPUTS, *_OUTPUT_BIASES, *_TEXT_BIASES):
      return _filled(like, 0)
    if name in _NORMS:
      return _filled(like, 1)
    std = _DEPTHWISE if name.startswith('ff.conv_depth.') else _NORMAL
    return _lazy(like, lambda a, b: source.normal(index, name, like)[a:b] * std)

  return {name: one(name, like) for name, like in source.blocks[0].items()}


def _copy(source, index, is_first):
  """Block `index`, whose gates are zero in a gated copy."""
  gated = source.growth.zero_gate and not is_first
  return {
    name: _filled(x, 0) if gated and name in _GATES else x
    for name, x in source.blocks[index].items()
  }


def _cyclic(source, index):
  return _copy(source, index % source.depth, index < source.depth)


def _block_expand(source, index):
  ratio = source.growth.depth // source.depth
  return _copy(source, index // ratio, index % ratio == 0)


def _progressive(source, index):
  def one(name, last):
    def rows(start, stop):
      out = last.fetch(start, stop).astype(np.float32)
      for i in range(source.depth, index + 1):
        out = out + source.normal(i, name, last)[start:stop] * _NOISE
      return out

    return _lazy(last, rows)

  return {name: one(name, last) for name, last in source.blocks[-1].items()}


def _interpolation(source, index):
  count, depth = source.depth, source.growth.depth
  lower = index * count // depth
  share = index * count / depth - lower
  upper = source.blocks[min(lower + 1, count - 1)]

  def one(name, low):
    def rows(start, stop):
      values = (x.fetch(start, stop) for x in (low, upper[name]))
      before, after = (x.astype(np.float32) for x in values)
      return (1 - share) * before + share * after

    return _lazy(low, rows)

  return {name: one(name, x) for name, x in source.blocks[lower].items()}


def _random(source, index):
  key = jax.random.fold_in(jax.random.key(source.growth.seed), index)
  rules = {
    rule.key.removeprefix(f'{blocks.PREFIX}{{i}}.'): rule
    for rule in sana.block_rules()
  }

  def one(name, like):
    _, path, transform = rules[name]

    def rows(start, stop):
      made = _initial(source.module, path.removeprefix('blocks/'), key)
      return transform.save(np.asarray(made))[start:stop]

    return _lazy(like, rows)

  return {name: one(name, like) for name, like in source.blocks[0].items()}


def initial(module: nn.Module, key: jax.Array) -> dict[str, jax.Array]:
  """Initial parameters of one block, by path."""
  fields = BlockFields.of(module.clone(dtype=jnp.float32))
  tokens = jnp.zeros((1, 1, module.width))
  made = Block(fields).init(
    key,
    tokens,
    jnp.zeros((1, 6, module.width)),
    tokens,
    jnp.zeros((1, 1)),
    grid=(1, 1),
  )
  return leaves(made['params'])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _initial(module, path, key):
  # XLA drops all other parameters.
  return initial(module, key)[path]


_STRATEGIES = {
  'constant': _constant,
  'cyclic': _cyclic,
  'block_expand': _block_expand,
  'progressive': _progressive,
  'interpolation': _interpolation,
  'random': _random,
}
