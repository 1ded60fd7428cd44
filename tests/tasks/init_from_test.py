"""A run starts from a model's weights, if the model is its own."""

import pathlib
import shutil

import jax
import numpy as np
import pytest

from sana_jax import config as base
from sana_jax import registry
from sana_jax.errors import UserError
from sana_jax.launch.config_files import CONFIGS, load_config
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.sharding import rules, tables
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import common, init_from
from sana_jax.weights import folder as folders
from sana_jax.weights import hub, kinds, native

pytestmark = pytest.mark.fast

FOLDER = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
PARTS = {'sana': 'transformer', 'dc_ae': 'vae', 'text_encoder': 'text_encoder'}
SHIPPED = sorted(p.stem for p in CONFIGS.glob('[!_]*.py'))


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
  first = next(iter(fields))
  assert (error.value.key, error.value.value) == (
    f'model.{first}',
    fields[first],
  )
  assert all(key in str(error.value) for key in fields)


PARTS_ADDED = {'guidance_embeds': True, 'timestep_scale': 0.001}


def test_a_part_is_added_if_it_is_named(model):
  target = model.module.clone(**PARTS_ADDED)
  arguments = str(FOLDER), 'transformer', target
  init_from.compare(*arguments, adds=tuple(PARTS_ADDED))
  for missing in PARTS_ADDED:
    with pytest.raises(UserError) as error:
      init_from.compare(
        *arguments, adds=[x for x in PARTS_ADDED if x != missing]
      )
    assert error.value.key == f'model.{missing}'
    assert error.value.allowed == (getattr(model.module, missing),)
    assert f'config.init_adds={missing!r}' in str(error.value)


def test_a_part_of_the_model_is_not_removed(model):
  module = model.module.clone(cross_norm=False)
  with pytest.raises(UserError) as error:
    init_from.compare(str(FOLDER), 'transformer', module, adds=['cross_norm'])
  assert (error.value.key, error.value.value) == ('model.cross_norm', False)
  assert 'init_adds' not in str(error.value)


def test_a_new_guidance_embedding_may_have_another_scale(model):
  target = model.module.clone(guidance_embeds=True, guidance_embeds_scale=10.0)
  init_from.compare(
    str(FOLDER), 'transformer', target, adds=('guidance_embeds',)
  )


@pytest.mark.long
def test_added_parts_are_on_the_mesh_and_the_rest_is_the_files(model):
  mesh = make_mesh({'data': 1, 'fsdp': 4, 'tensor': 2})
  target = model.module.clone(**PARTS_ADDED)
  given = init_from.start(
    'transformer', target, adds=tuple(PARTS_ADDED), seed=3
  ).load(str(FOLDER), mesh)
  wanted = rules.shardings(given, tables.SANA, mesh)
  assert jax.tree.map(lambda x: x.sharding, given) == wanted
  assert jax.tree.structure(given) == jax.tree.structure(
    abstract.transformer(target)
  )
  old = model.variables['params']
  for part in ('caption', 'head', 'patch_embed'):
    jax.tree.map(np.testing.assert_array_equal, given[part], old[part])
  guidance = given['time_embed']['guidance']['linear2']
  assert not any(map(np.any, jax.tree.leaves(guidance)))


def test_named_fields_of_config_model_stay(model, tmp_path):
  config = base.train('sana')
  config.init_from = str(FOLDER)
  config.init_adds = 'timestep_scale'
  config.model.timestep_scale = 0.001
  init_from.set_model(config, (), tmp_path / 'run')
  assert config.model.width == model.module.width
  assert config.model.timestep_scale == 0.001
  config.init_adds = ''
  init_from.set_model(config, (), tmp_path / 'run')
  assert config.model.timestep_scale == model.module.timestep_scale


@pytest.mark.parametrize(
  'value', ['width', 'qk_norm,cross_norm', 'guidance_embeds']
)
def test_only_parts_can_be_added(value):
  config = base.train('sana')
  config.init_adds = value
  with pytest.raises(UserError) as error:
    base.check(config)
  assert (error.value.key, error.value.value) == ('init_adds', value)


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


ASSET = 'shapes'  # A complete model of this package.


@pytest.mark.parametrize('task, part', PARTS.items())
def test_config_model_is_that_of_the_checkpoint(task, part, tmp_path):
  for source in (str(FOLDER), ASSET):
    config = base.train(task)
    config.init_from = source
    free = {k: v for k, v in config.model.items() if k in init_from.FREE}
    init_from.set_model(config, (), tmp_path / 'run')
    module = folders.describe(hub.find(source), part)
    for key, value in folders.module_fields(module).items():
      if key in free and key != 'scaling_factor':
        assert config.model[key] == free[key], key
      elif key not in init_from.FREE:
        rule = base.table(task)[f'model.{key}']
        assert config.model.get(key, rule.default) == value, key
    built = common.build(kinds.PARTS[part].cls, config)
    init_from.compare(source, part, built)
    # Other commands, which download nothing, have the same config.
    other = base.train(task)
    other.init_from = source
    init_from.set_model(other)
    assert other.to_json() == config.to_json()


def test_a_native_checkpoint_is_a_model_folder_like_others(model, tmp_path):
  folder = tmp_path / 'native/transformer'
  folder.mkdir(parents=True)
  shutil.copy(FOLDER / 'transformer/config.json', folder)
  native.save(folder, model.variables)
  config = base.train('sana')
  config.init_from = str(tmp_path / 'native')
  init_from.set_model(config, (), tmp_path / 'run')
  assert config.model.width == model.module.width


def test_a_key_that_is_given_stays_and_is_refused_with_its_name(
  model, tmp_path
):
  config = base.train('sana')
  config.init_from = str(FOLDER)
  overrides = ['--config.model.sample_size=64', '--config.model.depth=2']
  base.apply_overrides(config, overrides)
  init_from.set_model(config, overrides, tmp_path / 'run')
  assert config.model.sample_size == 64
  assert config.model.width == model.module.width
  overrides = ['--config.model.depth=9', '--config.model.width=8']
  base.apply_overrides(config, overrides)
  for folder in None, tmp_path / 'run':
    with pytest.raises(UserError) as raised:
      init_from.set_model(config, overrides, folder)
    assert raised.value.key in ('model.depth', 'model.width')
  config.model.width = model.module.width
  with pytest.raises(UserError) as raised:
    init_from.compare(str(FOLDER), 'transformer', common.build(Sana, config))
  assert (raised.value.key, raised.value.value) == ('model.depth', 9)
  assert raised.value.allowed == (model.module.depth,)


def test_a_run_with_a_checkpoint_has_its_own_config_model(tmp_path):
  config = base.train('sana')
  config.init_from = str(FOLDER)
  init_from.set_model(config, (), tmp_path)
  (tmp_path / 'checkpoints/8').mkdir(parents=True)
  (tmp_path / 'config.json').write_text(config.to_json())
  again = base.train('sana')
  again.init_from = str(tmp_path / 'deleted')
  init_from.set_model(again, (), tmp_path)
  assert again.model.to_dict() == config.model.to_dict()


def test_a_model_of_the_zoo_needs_no_download_to_be_planned():
  config = base.train('sana')
  config.init_from = 'sana_sprint_1600m_1024'
  init_from.set_model(config)
  assert config.model.width == 2240 and config.model.guidance_embeds
  config.init_from = 'some/model'  # Its config is not on this machine.
  init_from.set_model(config)
  assert config.model.width == 2240


@pytest.mark.parametrize('name', SHIPPED)
def test_a_shipped_config_is_that_of_the_model_that_it_starts_from(name):
  config = load_config(name)
  before = config.to_json()
  init_from.set_model(config)
  assert config.to_json() == before


def test_a_task_without_a_part_keeps_its_config(monkeypatch, tmp_path):
  kind = registry.Kind(objective=print, exporter=print, open=print)
  monkeypatch.setattr(registry, 'find', lambda name: kind)
  config = base.train('sana')
  config.init_from = str(FOLDER)
  before = config.to_json()
  init_from.set_model(config, (), tmp_path)
  assert config.to_json() == before
