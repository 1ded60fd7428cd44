"""Grown transformers, against NVIDIA's rules written out on its names.

They are those of NVlabs/Sana, diffusion/model/model_growth_utils.py.
"""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.weights import blocks, growing, official, sana, table
from sana_jax.weights import folder as folders
from sana_jax.weights.growing import Growth
from sana_jax.weights.tensors import Stored, stored

pytestmark = pytest.mark.fast

MODULE = Sana(
  width=16,
  depth=3,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  out_channels=3,
  caption_channels=6,
  qk_norm=True,
  cross_norm=True,
)
CONFIG = sana.diffusers_config(folders.module_fields(MODULE))
PREFIX = 'transformer_blocks.'


@functools.cache
def trained():
  rng = np.random.default_rng(0)
  shapes = {'params': abstract.transformer(MODULE)}
  variables = jax.tree.map(
    lambda s: rng.normal(size=s.shape).astype(np.float32) * 0.3, shapes
  )
  saved = table.save(rules(), variables)
  return {name: stored(np.ascontiguousarray(x)) for name, x in saved.items()}


def rules():
  return [rule.under('params') for rule in sana.rules()]


def draw(name, shape):
  """Numbers that the test can compute as well."""
  seed = [7, *name.encode()]
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def grown(depth, strategy, tensors=None, **more):
  return growing.grown(
    CONFIG, tensors or trained(), Growth(depth, strategy, **more), draw
  )


def read(tensors):
  return {name: x.read() for name, x in tensors.items()}


def officially(tensors):
  """{(block, the rest of NVIDIA's name): values}, and other tensors."""
  named = read(official.from_diffusers({'transformer': tensors}))
  split = (
    (name.split('.', 2)[1:] if name.startswith('blocks.') else (None, name))
    for name in named
  )
  return {
    (b if b is None else int(b), rest): x
    for (b, rest), x in zip(split, named.values())
  }


def of_block(values, index):
  return {rest: x for (b, rest), x in values.items() if b == index}


def assert_equal(got, want):
  assert got.keys() == want.keys()
  for name, x in want.items():
    np.testing.assert_array_equal(got[name], x, err_msg=str(name))


def velocity(config, tensors):
  module = MODULE.clone(depth=config['num_layers'])
  shapes = {'params': abstract.transformer(module)}
  variables = table.load(rules(), tensors, shapes, jnp.float32)
  rng = np.random.default_rng(1)
  inputs = (
    jnp.asarray(rng.normal(size=shape), jnp.float32)
    for shape in ((2, 4, 6, 3), (2,), (2, 5, 6))
  )
  latents, times, text = inputs
  return jax.jit(module.apply)(variables, latents, 500 + 100 * times, text)


def without_last(count):
  return blocks.selected(CONFIG, trained(), range(MODULE.depth - count))


@pytest.mark.long
@pytest.mark.parametrize('drop', [0, 1, 2])
def test_a_grown_model_is_the_model_without_its_dropped_blocks(drop):
  before = without_last(drop) if drop else (CONFIG, trained())
  np.testing.assert_array_equal(
    velocity(*grown(7, 'constant', drop=drop)), velocity(*before)
  )


@pytest.mark.long
@pytest.mark.parametrize(
  'strategy, depth', [('cyclic', 7), ('block_expand', 9)]
)
def test_a_gated_copy_is_the_identity(strategy, depth):
  np.testing.assert_array_equal(
    velocity(*grown(depth, strategy, zero_gate=True)),
    velocity(CONFIG, trained()),
  )


@pytest.mark.long
@pytest.mark.parametrize('strategy', growing.STRATEGIES)
def test_other_tensors_are_passed_through_and_nothing_is_read(strategy):
  def unread(x):
    return Stored(x.shape, x.dtype, lambda a, b: pytest.fail('read'))

  given = {name: unread(x) for name, x in trained().items()}
  config, made = grown(6, strategy, given)
  assert config == {**CONFIG, 'num_layers': 6}
  for name, tensor in given.items():
    if not name.startswith(PREFIX):
      assert made[name] is tensor
  of_first = {n.split('.', 2)[2] for n in given if n.startswith(f'{PREFIX}0.')}
  assert {n.split('.', 2)[2] for n in made if n.startswith(f'{PREFIX}5.')} == (
    of_first
  )


@pytest.mark.long
@pytest.mark.parametrize('drop', [0, 1])
@pytest.mark.parametrize(
  'strategy', sorted({*growing.STRATEGIES} - {'block_expand'})
)
def test_kept_blocks_come_first_and_are_the_trained_ones(strategy, drop):
  _, made = grown(6, strategy, drop=drop)
  for name, tensor in trained().items():
    kept = [f'{PREFIX}{i}.' for i in range(MODULE.depth - drop)]
    if name.startswith(tuple(kept)):
      assert made[name] is tensor


def test_constant_has_zero_outputs_and_norms_of_one():
  made = officially(grown(5, 'constant', drop=1)[1])
  for index in (2, 3, 4):
    block = of_block(made, index)
    assert len(block) == len(of_block(officially(trained()), 0))
    for name in (
      'attn.proj.weight',
      'attn.proj.bias',
      'cross_attn.proj.weight',
      'cross_attn.proj.bias',
      'cross_attn.q_linear.bias',
      'cross_attn.kv_linear.bias',
      'mlp.point_conv.conv.weight',
    ):
      assert not block.pop(name).any(), name
    for name in ('attn.q_norm', 'attn.k_norm'):
      for layer in ('', 'cross_'):
        assert (block.pop(f'{layer}{name}.weight') == 1).all()
    assert set(block) == {
      'scale_shift_table',
      'attn.qkv.weight',
      'cross_attn.q_linear.weight',
      'cross_attn.kv_linear.weight',
      'mlp.inverted_conv.conv.weight',
      'mlp.inverted_conv.conv.bias',
      'mlp.depth_conv.conv.weight',
      'mlp.depth_conv.conv.bias',
    }


@pytest.mark.parametrize(
  'name, std',
  [
    ('scale_shift_table', 0.02),
    ('attn1.to_k.weight', 0.02),
    ('attn2.to_v.weight', 0.02),
    ('ff.conv_inverted.bias', 0.02),
    ('ff.conv_depth.weight', 0.2),
    ('ff.conv_depth.bias', 0.2),
  ],
)
def test_constant_draws_the_rest_with_the_official_deviations(name, std):
  made = grown(5, 'constant')[1]
  for index in (3, 4):
    key = f'{PREFIX}{index}.{name}'
    want = np.float32(std) * draw(key, made[key].shape)
    np.testing.assert_array_equal(made[key].read(), want)
    np.testing.assert_array_equal(made[key].fetch(1, 4), want[1:4])


def gated(block):
  """Zeros where the official zero gate has them."""
  zeros = ('scale_shift_table', 'attn.proj.', 'mlp.point_conv.conv.weight')
  return {
    name: np.zeros_like(x) if any(z in name for z in zeros) else x
    for name, x in block.items()
  }


@pytest.mark.parametrize('gate', [False, True])
def test_cyclic_repeats_the_blocks(gate):
  made, before = (
    officially(x) for x in (grown(8, 'cyclic', zero_gate=gate)[1], trained())
  )
  for index in range(8):
    want = of_block(before, index % 3)
    is_gated = gate and index >= 3
    assert_equal(of_block(made, index), gated(want) if is_gated else want)


@pytest.mark.parametrize('gate', [False, True])
def test_block_expand_repeats_each_block(gate):
  made, before = (
    officially(x)
    for x in (grown(6, 'block_expand', drop=1, zero_gate=gate)[1], trained())
  )
  for source in (0, 1):
    for offset in (0, 1, 2):
      want = of_block(before, source)
      is_gated = gate and offset > 0
      assert_equal(
        of_block(made, 3 * source + offset), gated(want) if is_gated else want
      )


def test_progressive_adds_noise_to_the_block_before():
  made = read(grown(6, 'progressive')[1])
  for name in made:
    if name.startswith(f'{PREFIX}2.'):
      rest = name.split('.', 2)[2]
      want = made[name]
      for index in (3, 4, 5):
        key = f'{PREFIX}{index}.{rest}'
        want = want + draw(key, want.shape) * np.float32(0.01)
        np.testing.assert_array_equal(made[key], want)


def test_interpolation_lies_between_the_nearest_blocks():
  """7 blocks of 3: block 3 is at 9/7, 4 at 12/7, 5 at 15/7 and 6 at 18/7."""
  made, before = read(grown(7, 'interpolation')[1]), read(trained())
  for index, lower, upper, share in (
    (3, 1, 2, 9 / 7 - 1),
    (4, 1, 2, 12 / 7 - 1),
    (5, 2, 2, 15 / 7 - 2),
    (6, 2, 2, 18 / 7 - 2),
  ):
    for name in before:
      if name.startswith(f'{PREFIX}0.'):
        rest = name.split('.', 2)[2]
        low, up = (before[f'{PREFIX}{i}.{rest}'] for i in (lower, upper))
        want = (1 - share) * low + share * up
        np.testing.assert_array_equal(made[f'{PREFIX}{index}.{rest}'], want)


@pytest.mark.long
def test_random_blocks_are_those_of_a_new_model():
  made = grown(5, 'random', seed=3)[1]
  shapes = {'params': abstract.transformer(MODULE.clone(depth=5))}
  params = table.load(rules(), made, shapes)['params']['blocks']
  for index in (3, 4):
    key = jax.random.fold_in(jax.random.key(3), index)
    fresh = jax.jit(growing.initial, static_argnums=0)(MODULE, key)
    for path, want in fresh.items():
      found = params
      for part in path.split('/'):
        found = found[part]
      np.testing.assert_allclose(found[index], want, rtol=1e-6, err_msg=path)


def test_random_values_follow_from_the_seed_and_differ_by_tensor():
  first, again, other = (growing.normal(s, 'a', (999,)) for s in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  for x in (other, growing.normal(1, 'b', (999,))):
    assert abs(np.corrcoef(first, x)[0, 1]) < 0.2
  assert abs(first.std() - 1) < 0.1


def test_new_tensors_have_the_dtype_of_the_trained_ones():
  half = ml_dtypes.bfloat16
  given = {n: stored(x.read().astype(half)) for n, x in trained().items()}
  for strategy in ('constant', 'progressive', 'interpolation'):
    made = grown(5, strategy, given)[1]
    assert {x.read().dtype for x in made.values()} == {np.dtype(half)}


@pytest.mark.parametrize(
  'growth, key',
  [
    (Growth(3), 'depth'),
    (Growth(2, drop=1), 'depth'),
    (Growth(9, drop=3), 'drop'),
    (Growth(9, drop=-1), 'drop'),
    (Growth(9, 'linear'), 'strategy'),  # No flag allows it.
    (Growth(8, 'block_expand'), 'depth'),
    (Growth(9, 'constant', zero_gate=True), 'zero-gate'),
  ],
)
def test_a_growth_that_cannot_be_is_refused(growth, key):
  with pytest.raises(UserError) as error:
    growing.grown(CONFIG, trained(), growth)
  assert error.value.key == f'--{key}'


def test_weights_in_our_own_format_are_refused():
  with pytest.raises(UserError) as error:
    growing.grown(CONFIG, None, Growth(9))
  assert error.value.allowed == ('diffusers',)
