"""Losses by noise level and norms by block add up to those of the whole."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sana_jax.objectives.levels import by_level, Levels, NUM_LEVELS
from sana_jax.training import norms
from sana_jax.training.loss_bins import flat, LossBins


def test_values_fall_into_the_part_of_their_level():
  level = jnp.array([0.0, 0.124, 0.125, 0.5, 0.99, 1.0])
  values = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
  found = by_level(values, level)
  np.testing.assert_array_equal(found.sums, [3, 4, 0, 0, 8, 0, 0, 48])
  np.testing.assert_array_equal(found.counts, [2, 1, 0, 0, 1, 0, 0, 2])


def test_a_value_that_is_not_finite_stays_in_its_bin():
  found = by_level(jnp.array([jnp.nan, 1.0]), jnp.array([0.1, 0.9]), 2)
  np.testing.assert_array_equal(found.sums, [np.nan, 1])


@pytest.mark.long
def test_a_line_has_the_mean_of_all_examples_and_no_empty_parts():
  rng = np.random.default_rng(0)
  values, level = rng.normal(size=(2, 600))
  level = 0.5 * np.abs(np.sin(level))  # Nothing above one half.
  total = LossBins()
  # Steps of unlike sizes: a mean of means would be another number.
  for part in np.split(np.arange(600), [10, 200, 210]):
    total.add(
      {
        'loss': np.float32(1),
        'of': by_level(jnp.asarray(values[part]), jnp.asarray(level[part]), 4),
      }
    )
  found = total.line()
  assert list(found) == ['of/0.000-0.250', 'of/0.250-0.500']
  for low, name in ((0, 'of/0.000-0.250'), (0.25, 'of/0.250-0.500')):
    inside = (level >= low) & (level < low + 0.25)
    assert found[name] == pytest.approx(values[inside].mean(), rel=1e-4)
  assert total.line() == {}  # The next line begins with nothing.


@pytest.mark.long
def test_parts_of_a_batch_add_up_whether_summed_or_averaged():
  values, level = jnp.arange(8.0), jnp.linspace(0, 1, 8)
  whole = by_level(values, level)
  halves = [by_level(values[i : i + 4], level[i : i + 4]) for i in (0, 4)]
  lines = []
  for found in (
    whole,
    jax.tree.map(lambda a, b: a + b, *halves),
    jax.tree.map(lambda a, b: (a + b) / 2, *halves),
  ):
    total = LossBins()
    total.add({'of': found})
    lines.append(total.line())
  assert lines[0] == lines[1] == lines[2]


def test_a_vector_is_a_number_for_each_of_its_places():
  found = flat(
    {
      'loss': np.float32(2),
      'skipped': np.int32(3),
      'norm/block': np.array([0.5, 1.5], np.float32),
      'of': Levels(np.zeros(2), np.zeros(2)),
    }
  )
  assert found == {
    'loss': 2,
    'skipped': 3,
    'norm/block_00': 0.5,
    'norm/block_01': 1.5,
  }
  assert type(found['skipped']) is int


@pytest.fixture
def grads():
  draw = np.random.default_rng(0).normal
  return {
    'blocks': {
      'attention': {'kernel': draw(size=(3, 4, 5))},
      'bias': draw(size=(3, 5)),
    },
    'head': {'kernel': draw(size=(5, 2)), 'bias': draw(size=2)},
    'scale': draw(size=()),
  }


@pytest.mark.long
def test_each_block_has_the_norm_of_its_own_gradients(grads):
  grads = jax.tree.map(jnp.asarray, grads)
  found = norms.by_part(grads, 'grad_norm')
  assert sorted(found) == [
    'grad_norm/block',
    'grad_norm/head',
    'grad_norm/scale',
  ]
  for i in range(3):
    one = jax.tree.map(operator.itemgetter(i), grads['blocks'])
    np.testing.assert_allclose(
      found['grad_norm/block'][i], optax.tree.norm(one), rtol=1e-6
    )
  np.testing.assert_allclose(
    found['grad_norm/head'], optax.tree.norm(grads['head']), rtol=1e-6
  )


def test_the_squares_of_all_parts_are_that_of_the_whole(grads):
  squares = sum(
    float(np.sum(np.square(x))) for x in norms.by_part(grads, 'g').values()
  )
  assert squares == pytest.approx(float(optax.tree.norm(grads)) ** 2)


def test_stacks_inside_a_part_have_its_name():
  grads = {
    'encoder': {'layers': {'kernel': jnp.ones((2, 9))}, 'embed': jnp.ones(4)}
  }
  found = norms.by_part(grads, 'g')
  assert {k: v.tolist() for k, v in found.items()} == {
    'g/encoder_block': [3, 3],
    'g/encoder': 2,
  }


def test_half_precision_gradients_are_summed_in_float32():
  found = norms.by_part({'head': jnp.full(4096, 1.0, jnp.bfloat16)}, 'g')
  assert found['g/head'].dtype == jnp.float32
  assert float(found['g/head']) == 64


def test_there_are_eight_levels():
  found = by_level(jnp.zeros(2), jnp.zeros(2))
  assert found.sums.shape == found.counts.shape == (NUM_LEVELS,) == (8,)
