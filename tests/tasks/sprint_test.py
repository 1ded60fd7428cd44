"""A distillation from model folders: its start, teacher, checks and export."""

import json
import pathlib

import jax
import numpy as np
import pytest

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.errors import UserError
from sana_jax.inference.pipeline import Pipeline
from sana_jax.launch.config_files import load_config
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import init_from
from sana_jax.tasks.sana import exports
from sana_jax.tasks.sprint import networks
from sana_jax.training.loop import train
from sana_jax.weights import folder as folders
from sana_jax.weights import hub

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
TEACHER, SPRINT = GOLDEN / 'tiny_sana', GOLDEN / 'tiny_sprint'


@pytest.fixture
def config(folder, tmp_path):
  """The smallest distillation, of tiny_sana."""
  config = base.train('sprint')
  config.autoencoder = config.text_encoder = config.init_from = str(TEACHER)
  config.data.update(
    source='folder', path=str(folder), size_px=32, threads=0, index_path=''
  )
  config.data.max_bad_fraction = 0.5
  config.ladd.blocks = (0, 1)
  config.update(
    num_steps=2,
    batch_size=4,
    log_every_steps=1,
    checkpoint_every_steps=2,
    pictures_every_steps=0,
  )
  config.inputs.text_length = 16
  config.model.sample_size = 8
  init_from.set_model(config, (), tmp_path / 'none')
  return config


def refused(config, *args):
  with pytest.raises(UserError) as e:
    tasks.objective(config) if not args else tasks.open_task(config, *args)
  return e.value.key


@pytest.mark.fast
def test_the_model_is_the_teachers_with_the_parts_of_a_sprint(config):
  model = config.model
  assert (model.width, model.depth, model.qk_norm) == (24, 2, True)
  assert model.guidance_embeds and model.timestep_scale == 0.001


@pytest.mark.fast
@pytest.mark.parametrize(
  'changes, key',
  [
    ({'model.guidance_embeds': False}, 'model.guidance_embeds'),
    ({'model.timestep_scale': 1.0}, 'model.timestep_scale'),
    ({'sprint.weighting': 'published'}, 'model.logvar'),
    ({'sprint.teacher': 'none'}, 'sprint.target_decay'),
    (
      {'sprint.teacher': 'none', 'sprint.loss': 'discrete'},
      'sprint.target_decay',
    ),
    (
      {
        'sprint.teacher': 'none',
        'sprint.loss': 'discrete',
        'sprint.target_decay': 0.9,
        'ladd.weight': 1.0,
      },
      'ladd.weight',
    ),
    ({'ladd.weight': 1.0, 'ladd.blocks': (1, 2)}, 'ladd.blocks'),
    ({'ladd.weight': 1.0, 'ladd.blocks': (1, 1)}, 'ladd.blocks'),
  ],
)
def test_settings_that_exclude_each_other_are_refused_by_key(
  config, changes, key
):
  config.update_from_flattened_dict(changes)
  assert refused(config) == key


@pytest.mark.fast
@pytest.mark.parametrize(
  'teacher, start, key',
  [
    ('', '', 'sprint.teacher'),
    (str(SPRINT), str(TEACHER), 'sprint.teacher'),
    ('', str(SPRINT), 'sprint.teacher'),
    ('shapes', str(TEACHER), 'model.width'),
  ],
)
def test_an_unsuitable_teacher_is_refused_by_key(
  config, tmp_path, teacher, start, key
):
  config.sprint.teacher, config.init_from = teacher, start
  assert refused(config, tmp_path) == key


@pytest.mark.fast
def test_a_student_of_another_size_than_its_start_is_refused(config):
  config.model.width, config.model.cross_heads = 32, 2
  with pytest.raises(UserError) as e:
    tasks.exporter(config).start.check(str(TEACHER))
  assert e.value.key == 'model.width' and e.value.allowed == (24,)


@pytest.mark.long
@pytest.mark.fast
def test_a_sprint_that_goes_on_keeps_its_weights(config):
  config.init_from = str(SPRINT)
  config.model.guidance_embeds_scale = 0.1
  mesh = make_mesh({'data': 1}, jax.devices()[:1])
  got = tasks.exporter(config).start.load(str(SPRINT), mesh)
  want = folders.load(SPRINT, 'transformer').variables['params']
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.long
@pytest.mark.fast
def test_the_teacher_is_frozen_in_its_own_weights_and_split(config, tmp_path):
  mesh = make_mesh({'fsdp': 4, 'data': 2})
  student = networks.expected_teacher(config, _student(config))
  with jax.set_mesh(mesh):
    found = networks.load_teacher(config, student, mesh)
  kernel = found.variables['params']['blocks']['mix_ffn']['inverted']['kernel']
  assert kernel.addressable_shards[0].data.shape[1] == kernel.shape[1] // 4
  want = folders.load(TEACHER, 'transformer').variables['params']
  jax.tree.map(np.testing.assert_array_equal, found.variables['params'], want)


def _student(config):
  from sana_jax.models.sana import Sana
  from sana_jax.tasks import common

  return common.build(Sana, config)


@pytest.fixture(scope='module')
def one_device():
  return make_mesh({'data': 1}, jax.devices()[:1])


@pytest.mark.long
def test_a_run_writes_a_sprint_that_draws_in_one_step(
  config, tmp_path, one_device
):
  config.ladd.weight = 0.5
  task = tasks.open_task(config, tmp_path / 'run', one_device)
  train(config, task, tmp_path / 'run', one_device)
  model = tmp_path / 'run/model'
  index = json.loads((model / 'model_index.json').read_text())
  assert index['_class_name'] == 'SanaSprintPipeline'
  names = json.loads((tmp_path / 'run/frozen.json').read_text())
  assert names['sprint.teacher']['name'] == str(TEACHER)
  pipe = Pipeline.from_pretrained(model)
  assert pipe.transformer.module.guidance_embeds
  image = pipe.draw(
    'a circle', steps=1, height=32, width=32, use_resolution_binning=False
  )[0]
  assert image.shape == (32, 32, 3) and image.std() > 0


@pytest.mark.long
def test_a_sprint_is_fine_tuned_without_its_teacher(
  config, tmp_path, one_device
):
  config.init_from, config.sprint.teacher = str(SPRINT), 'none'
  config.sprint.update(loss='discrete', target_decay=0.9)
  config.model.guidance_embeds_scale = 0.1
  task = tasks.open_task(config, tmp_path / 'run', one_device)
  state = train(config, task, tmp_path / 'run', one_device)
  assert set(state.extra) == {'target'}
  assert set(task.frozen) == {'null_text', 'null_mask'}


@pytest.mark.long
def test_a_run_whose_tangents_outgrow_the_velocities_ends_with_a_key(
  config, tmp_path, one_device
):
  config.sprint.max_tangent_ratio = 1e-6
  config.num_steps = 30
  task = tasks.open_task(config, tmp_path / 'run', one_device)
  with pytest.raises(UserError) as e:
    train(config, task, tmp_path / 'run', one_device)
  assert e.value.key == 'sprint.max_tangent_ratio'


@pytest.mark.fast
def test_the_published_recipe_has_the_papers_settings():
  config = load_config('sana_sprint_1600m_1024')
  # 2503.09641 and the released yaml.
  assert (config.sprint.mean, config.sprint.std) == (0.2, 1.6)
  assert (config.ladd.mean, config.ladd.std) == (-0.6, 1.0)
  assert tuple(config.ladd.blocks) == (2, 8, 14, 19)
  assert tuple(config.sprint.guidance_scales) == (4.0, 4.5, 5.0)
  assert config.sprint.tangent_warmup_steps == 4000
  assert (config.ladd.weight, config.ladd.largest_time) == (0.5, 0.5)
  for group in config.optimizer, config.discriminator:
    assert (group.name, group.learning_rate) == ('came', 2e-6)
    assert group.clip_norm == 0.1


@pytest.mark.fast
@pytest.mark.parametrize(
  'start, keeps', [('shapes', True), (str(TEACHER), False)]
)
def test_words_of_a_model_are_kept_by_one_that_starts_from_it(start, keeps):
  config = load_config('shapes_sprint')
  config.init_from = start
  assert bool(exports.vocabulary(config)) == keeps


@pytest.mark.fast
def test_the_shipped_sprint_is_of_the_shipped_config():
  config = load_config('shapes_sprint')
  module = folders.describe(hub.find('shapes-sprint'), 'transformer')
  for key, value in config.model.to_dict().items():
    if key not in ('unroll', 'text_norm_scale'):
      assert getattr(module, key) == value, key
