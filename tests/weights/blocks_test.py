"""Blocks of a transformer's files are chosen by index."""

import pathlib

import pytest

from sana_jax.errors import UserError
from sana_jax.weights import blocks, exchange

pytestmark = pytest.mark.fast

SHIPPED = 'shapes'
GOLDEN = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'


@pytest.fixture(scope='module')
def part():
  return exchange.open_source(SHIPPED).parts['transformer']


@pytest.mark.parametrize('kept', [[0], [1, 4], [5, 0, 2], [0, 1, 2, 3, 4]])
def test_exactly_the_chosen_blocks_are_kept_in_their_order(part, kept):
  config, tensors = blocks.selected(*part, kept)
  assert config == {**part.config, 'num_layers': len(kept)}
  _, before, others = blocks.trained(*part)
  _, after, same = blocks.trained(config, tensors)
  assert len(after) == len(kept) and same == others
  for block, index in zip(after, sorted(kept)):
    assert block.keys() == before[index].keys()
    assert all(block[name] is before[index][name] for name in block)


@pytest.mark.parametrize('kept', [[], [6], [-1, 2], [1, 1], range(6)])
def test_other_blocks_than_some_of_the_models_are_refused(part, kept):
  with pytest.raises(UserError) as error:
    blocks.selected(*part, kept)
  assert error.value.key == '--keep'


def test_another_family_and_missing_tensors_are_refused(part):
  vae = exchange.open_source(str(GOLDEN / 'vae')).parts['vae']
  with pytest.raises(UserError):
    blocks.trained(*vae)
  name = 'transformer_blocks.3.attn1.to_q.weight'
  with pytest.raises(UserError):
    blocks.trained(
      part.config, {k: x for k, x in part.tensors.items() if k != name}
    )
