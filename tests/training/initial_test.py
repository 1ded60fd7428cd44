"""A run starts from a model's weights, if the model is its own."""

import pathlib

import jax
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.sharding import rules, tables
from sana_jax.sharding.mesh import make_mesh
from sana_jax.training import initial
from sana_jax.weights import folder as folders

FOLDER = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'


@pytest.fixture(scope='module')
def model():
  return folders.load(FOLDER, 'transformer')


@pytest.fixture
def task(toy):
  """The toy as one that trains a transformer."""
  def make(module, **fields):
    made = toy.Toy()
    made.name, made.module = 'sana', module.clone(**fields)
    return made
  return make


def test_every_weight_is_the_files_and_on_its_shards(model, task):
  mesh = make_mesh({'data': 1, 'fsdp': 4, 'tensor': 2})
  given = initial.given(str(FOLDER), task(model.module), mesh)
  wanted = model.variables['params']
  shardings = rules.shardings(wanted, tables.SANA, mesh)
  jax.tree.map(np.testing.assert_array_equal, given, wanted)
  assert jax.tree.map(lambda x: x.sharding, given) == shardings
  kernel = given['blocks']['mix_ffn']['inverted']['kernel']
  layers, inputs, hidden = kernel.shape
  assert kernel.addressable_shards[0].data.shape == (
    layers, inputs // 4, hidden // 2)


@pytest.mark.parametrize('fields', [
  {'sample_size': 64}, {'interpolation_scale': 2.}, {'remat': 'full'},
  {'dtype': 'bfloat16'}, {'text_norm_scale': 1.}])
def test_a_stage_at_another_size_starts_from_it(model, task, fields):
  initial.compare(str(FOLDER), task(model.module, **fields))


@pytest.mark.parametrize('fields, said', [
  ({'depth': 9}, 'depth is . there and 9 here'),
  ({'cross_heads': 1, 'norm_eps': 1.}, 'cross_heads is . there and 1 here; '
   'norm_eps is 1e-06 there and 1.0 here. Start from another model, or change '
   'config.model to what is in its transformer/config.json')])
def test_another_model_is_told(model, task, fields, said):
  with pytest.raises(UserError, match=said):
    initial.compare(str(FOLDER), task(model.module, **fields))


def test_what_is_no_folder_is_told(model, task):
  with pytest.raises(UserError, match='no model folder'):
    initial.compare('a/b/c', task(model.module))


def test_without_a_name_nothing_is_given(model, task):
  mesh = make_mesh({'data': -1})
  assert initial.given('', task(model.module), mesh) == {}
