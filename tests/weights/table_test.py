"""Weight maps are exact in both directions; one error lists all problems."""

import jax
import ml_dtypes
import numpy as np
import pytest

from sana_jax.tree import unflatten
from sana_jax.weights import table
from sana_jax.weights.table import Rule, WeightError
from sana_jax.weights.transforms import (
  CONV,
  DEPTHWISE,
  IDENTITY,
  LINEAR,
  POINTWISE,
)

pytestmark = pytest.mark.fast

RULES = [
  Rule('embed.weight', 'embed/table'),
  Rule('blocks.{i}.fc.weight', 'blocks/fc/kernel', LINEAR),
  Rule('stage.{s}.{b}.conv.weight', 'stage_{s}/block_{b}/kernel', CONV),
  Rule('optional.bias', 'optional/bias'),
]


def tensors():
  rng = np.random.default_rng()
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {
    'embed.weight': draw(7, 4),
    **{f'blocks.{i}.fc.weight': draw(3, 4) for i in range(11)},
    'stage.0.0.conv.weight': draw(5, 4, 3, 2),
    'stage.1.2.conv.weight': draw(6, 5, 1, 1),
  }


def shapes(**changes):
  of = {
    'embed/table': (7, 4),
    'blocks/fc/kernel': (11, 4, 3),
    'stage_0/block_0/kernel': (3, 2, 4, 5),
    'stage_1/block_2/kernel': (1, 1, 5, 6),
    **changes,
  }
  return unflatten(
    {
      path: jax.ShapeDtypeStruct(shape, np.float32)
      for path, shape in of.items()
      if shape is not None
    }
  )


def test_layers_are_stacked_in_order_and_names_copied():
  given = tensors()
  params = table.load(RULES, given, shapes())
  for i in range(11):  # Eleven: '10' comes before '2' as text.
    np.testing.assert_array_equal(
      params['blocks']['fc']['kernel'][i], given[f'blocks.{i}.fc.weight'].T
    )
  np.testing.assert_array_equal(
    params['stage_1']['block_2']['kernel'][0, 0],
    given['stage.1.2.conv.weight'][:, :, 0, 0].T,
  )
  assert params.keys() == {'embed', 'blocks', 'stage_0', 'stage_1'}


def test_saving_is_the_inverse_of_loading():
  given = tensors()
  saved = table.save(RULES, table.load(RULES, given, shapes()))
  assert saved.keys() == given.keys()
  for key, value in given.items():
    np.testing.assert_array_equal(saved[key], value, strict=True)


@pytest.mark.parametrize(
  'transform, file, ours, moved',
  [
    (IDENTITY, (2, 3), (2, 3), lambda x, i: x[i]),
    (LINEAR, (2, 3), (3, 2), lambda x, i: x[i[::-1]]),
    (CONV, (2, 3, 4, 5), (4, 5, 3, 2), lambda x, i: x[i[2], i[3], i[1], i[0]]),
    (DEPTHWISE, (6, 1, 3, 3), (3, 3, 6), lambda x, i: x[i[2], i[3], i[0]]),
    (POINTWISE, (2, 3, 1, 1), (3, 2), lambda x, i: x[i[1], i[0]]),
  ],
)
def test_each_transform_moves_every_entry_correctly(
  transform, file, ours, moved
):
  x = np.arange(np.prod(file)).reshape(file)
  loaded = transform.load(x)
  assert loaded.shape == ours
  for index in np.ndindex(file):
    assert moved(loaded, index) == x[index]
  np.testing.assert_array_equal(transform.save(loaded), x)


def error(rules=RULES, *, given=None, wanted=None):
  with pytest.raises(WeightError) as caught:
    table.load(rules, tensors() if given is None else given, wanted or shapes())
  return caught.value.value


def named(problems):
  return [problem.split()[0].rstrip(':') for problem in problems]


def test_a_key_without_a_rule_is_listed():
  (problem,) = error(given={**tensors(), 'embed.bias': np.zeros(4)})
  assert problem.startswith('embed.bias: 0 ')


def test_a_key_with_two_rules_is_listed():
  problems = error(
    [
      *RULES,
      Rule('embed.{what}', 'embed/{what}'),
      Rule('{name}.weight', 'x'),
      Rule('embed.weight', 'x'),
    ]
  )
  assert any(problem.startswith('embed.weight: 2 ') for problem in problems)


def test_two_keys_of_one_parameter_are_listed():
  # Else the last of the two would win in silence.
  given = {**tensors(), 'embedding.weight': np.zeros((7, 4), np.float32)}
  (problem,) = error(
    [*RULES, Rule('embedding.weight', 'embed/table')], given=given
  )
  assert 'embed.weight' in problem and 'embedding.weight' in problem


def test_a_parameter_without_a_tensor():
  given = tensors()
  del given['embed.weight']
  (problem,) = error(given=given)
  assert problem.startswith('embed/table (7, 4): ')


def test_a_tensor_without_a_parameter():
  (problem,) = error(wanted=shapes(**{'embed/table': None}))
  assert problem.startswith('embed.weight: ') and 'embed/table' in problem


@pytest.mark.parametrize('gone', [0, 4, 10])
def test_a_stack_with_a_layer_missing(gone):
  given = tensors()
  del given[f'blocks.{gone}.fc.weight']
  (problem,) = error(given=given)
  assert problem.startswith('blocks/fc/kernel (11, 4, 3): ')
  assert problem.endswith(f'[{gone}]')


def test_a_stack_with_a_layer_too_many():
  given = tensors()
  given['blocks.11.fc.weight'] = given['blocks.0.fc.weight']
  (problem,) = error(given=given)
  assert problem.startswith('blocks/fc/kernel (11, 4, 3): ')


@pytest.mark.parametrize(
  'key, shape',
  [
    ('embed.weight', (7, 5)),
    ('blocks.3.fc.weight', (3, 5)),
    ('blocks.3.fc.weight', (12,)),
    ('stage.0.0.conv.weight', (5, 4, 3, 3)),
    ('stage.0.0.conv.weight', (5, 4)),
    ('embed.weight', ()),
  ],
)
def test_a_tensor_of_another_shape(key, shape):
  (problem,) = error(given={**tensors(), key: np.zeros(shape, np.float32)})
  path = {
    'e': 'embed/table',
    'b': 'blocks/fc/kernel',
    's': 'stage_0/block_0/kernel',
  }[key[0]]
  assert path in problem and key in problem and str(shape) in problem


def test_one_error_lists_everything():
  given = {**tensors(), 'embed.bias': np.zeros(4)}
  del given['blocks.2.fc.weight'], given['stage.0.0.conv.weight']
  given['embed.weight'] = np.zeros((1, 4))
  assert named(error(given=given, wanted=shapes(extra=(2,)))) == [
    'blocks/fc/kernel',
    'embed.bias',
    'embed/table',
    'extra',
    'stage_0/block_0/kernel',
  ]


def test_saving_needs_a_rule_for_each_parameter():
  params = table.load(RULES, tensors(), shapes())
  params['other'] = {'scale': np.ones(3), 'bias': np.ones(3)}
  with pytest.raises(WeightError) as caught:
    table.save(RULES, params)
  assert set(named(caught.value.value)) == {'other/scale', 'other/bias'}


@pytest.mark.parametrize('dtype', [np.int32, np.bool_, ml_dtypes.float8_e4m3fn])
def test_a_tensor_of_another_kind_of_dtype(dtype):
  given = tensors()
  given['embed.weight'] = given['embed.weight'].astype(dtype)
  (problem,) = error(given=given)
  assert problem.startswith('embed/table ')
  assert f'{np.dtype(dtype)} in embed.weight' in problem


@pytest.mark.parametrize('dtype', [np.float16, np.float64, ml_dtypes.bfloat16])
def test_floating_dtypes_are_kept_or_cast(dtype):
  given = {k: x.astype(dtype) for k, x in tensors().items()}
  params = table.load(RULES, given, shapes())
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(dtype)}
  params = table.load(RULES, given, shapes(), np.float32)
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_weights_of_another_model_have_a_short_error():
  given = {f'other.{i}': np.zeros(3) for i in range(500)}
  assert error(given=given) == ['other.0']
