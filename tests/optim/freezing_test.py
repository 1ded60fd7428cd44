"""A part of the parameters, chosen by patterns of their paths."""

import re

import pytest

from sana_jax.errors import UserError
from sana_jax.optim import freezing

pytestmark = pytest.mark.fast

PARAMS = {
  'encoder': {'conv_out': {'bias': 1, 'kernel': 2}, 'stage_1': {'bias': 3}},
  'decoder': {'conv_in': {'kernel': 4}},
}


@pytest.mark.parametrize(
  'patterns, values',
  [
    ('', {1, 2, 3, 4}),
    ('encoder/.*', {1, 2, 3}),
    ('.*/bias', {1, 3}),
    ('encoder/conv_out/.* decoder/.*', {1, 2, 4}),
    ('  encoder/stage_1/bias  ', {3}),
  ],
)
def test_patterns_choose_whole_paths(patterns, values):
  trained, rest = freezing.split(PARAMS, patterns)
  leaves = lambda tree: {
    v
    for x in tree.values()
    for v in (leaves(x) if isinstance(x, dict) else {x})
  }
  assert leaves(trained) == values
  assert leaves(rest) == {1, 2, 3, 4} - values
  assert freezing.join(trained, rest) == PARAMS


def test_frozen_parameters_have_no_key():
  assert freezing.split(PARAMS, 'decoder/.*')[0] == {
    'decoder': {'conv_in': {'kernel': 4}}
  }


@pytest.mark.parametrize(
  'patterns, named, allowed',
  [
    ('encoder', "'encoder' ", 'patterns of parameters'),
    ('encoder/.* decodr/.* x', "'decodr/.*', 'x' ", 'patterns of parameters'),
    ('encoder/(.*', "'encoder/(.*' ", freezing.FORM),
  ],
)
def test_a_pattern_that_matches_nothing_raises(patterns, named, allowed):
  with pytest.raises(UserError, match=re.escape(named)) as error:
    freezing.split(PARAMS, patterns)
  assert (error.value.key, error.value.value) == ('trainable', patterns)
  assert error.value.allowed == allowed
