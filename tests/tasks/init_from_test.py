"""A run starts from a model's weights, if the model is its own."""

import pathlib

import jax
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.sharding import rules, tables
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import init_from
from sana_jax.weights import folder as folders

pytestmark = pytest.mark.fast

FOLDER = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'


@pytest.fixture(scope='module')
def model():
  return folders.load(FOLDER, 'transformer')


def test_every_weight_is_the_files_and_on_its_shards(model):
  mesh = make_mesh({'data': 1, 'fsdp': 4, 'tensor': 2})
  given = init_from.start('transformer', model.module).load(str(FOLDER), mesh)
  wanted = model.variables['params']
  shardings = rules.shardings(wanted, tables.SANA, mesh)
  jax.tree.map(np.testing.assert_array_equal, given, wanted)
  assert jax.tree.map(lambda x: x.sharding, given) == shardings
  kernel = given['blocks']['mix_ffn']['inverted']['kernel']
  layers, inputs, hidden = kernel.shape
  assert kernel.addressable_shards[0].data.shape == (
    layers,
    inputs // 4,
    hidden // 2,
  )


@pytest.mark.parametrize(
  'fields',
  [
    {'sample_size': 64},
    {'interpolation_scale': 2.0},
    {'remat': 'full'},
    {'dtype': 'bfloat16'},
    {'text_norm_scale': 1.0},
  ],
)
def test_a_stage_at_another_size_starts_from_it(model, fields):
  init_from.compare(str(FOLDER), 'transformer', model.module.clone(**fields))


@pytest.mark.parametrize(
  'fields', [{'depth': 9}, {'cross_heads': 1, 'norm_eps': 1.0}]
)
def test_another_model_raises(model, fields):
  with pytest.raises(UserError) as error:
    init_from.compare(str(FOLDER), 'transformer', model.module.clone(**fields))
  assert error.value.key == 'init_from'
  assert [p.split()[0] for p in error.value.value] == list(fields)
  assert [float(p.split()[-2]) for p in error.value.value] == list(
    fields.values()
  )


def test_a_missing_folder_raises(model):
  with pytest.raises(UserError) as error:
    init_from.compare('a/b/c', 'transformer', model.module)
  assert (error.value.key, error.value.value) == ('model', 'a/b/c')


def test_a_part_of_the_parameters_may_be_all_that_a_folder_has(model):
  start = init_from.start('transformer', model.module, under='encoder')
  given = start.load(str(FOLDER), make_mesh({'data': -1}))
  jax.tree.map(
    np.testing.assert_array_equal, given, {'encoder': model.variables['params']}
  )


def test_a_task_without_a_start_raises(toy, tmp_path):
  with pytest.raises(UserError) as error:
    toy.run(tmp_path / 'run', init_from='shapes')
  assert (error.value.key, error.value.value) == ('init_from', 'shapes')
  assert error.value.allowed == ('',)
  assert not (tmp_path / 'run').exists()
