"""Conversion between trees and names of leaves."""

import jax
from ml_collections import ConfigDict
import pytest

from sana_jax import tree

pytestmark = pytest.mark.fast


def test_values_are_named_by_their_keys_in_order():
  nested = {'b': {'y': 1, 'x': {'z': (2, 3)}}, 'a': None}
  assert list(tree.flatten(nested).items()) == [
    ('b/y', 1),
    ('b/x/z', (2, 3)),
    ('a', None),
  ]


def test_a_config_is_flattened_as_its_dict_is():
  nested = {'a': {'b': 1}, 'c': {'d': {'e': 'x'}}}
  assert tree.flatten(ConfigDict(nested)) == {'a/b': 1, 'c/d/e': 'x'}


def test_empty_dicts_are_omitted_or_values():
  nested = {'a': {'b': {}}, 'c': {}}
  assert tree.flatten(nested) == {}
  assert tree.flatten({}, empty=True) == {'': {}}
  assert tree.flatten(nested, empty=True) == {'a/b': {}, 'c': {}}


def test_a_tree_that_is_not_a_dict_has_the_empty_name():
  assert tree.flatten([1]) == {'': [1]}
  assert tree.leaves(3) == {'': 3}


def test_leaves_of_a_pytree_are_named_in_jax_s_order():
  pytree = {'b': [1, {'x': 2}], 'a': {'y': 3, 'none': None}}
  named = tree.leaves(pytree)
  assert list(named.items()) == [('a/y', 3), ('b/0', 1), ('b/1/x', 2)]
  assert list(named.values()) == jax.tree.leaves(pytree)
  assert list(tree.leaves(pytree, '.')) == ['a.y', 'b.0', 'b.1.x']


@pytest.mark.parametrize('separator', ['/', '.'])
def test_unflattening_is_the_inverse(separator):
  nested = {'a': {'b': 1, 'c': {'d': 2}}, 'e': 3}
  assert tree.unflatten(tree.leaves(nested, separator), separator) == nested
  assert tree.unflatten(tree.flatten(nested, separator), separator) == nested
  assert tree.unflatten({}) == {}


@pytest.mark.parametrize('names', [('a', 'a/b/c'), ('a/b/c', 'a/b')])
def test_a_leaf_with_leaves_is_refused(names):
  with pytest.raises(ValueError, match='is a leaf and has leaves'):
    tree.unflatten(dict.fromkeys(names, 1))
