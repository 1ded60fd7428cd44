"""Adapters of a Sprint, trained by the consistency loss on the base's own."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.errors import UserError
from sana_jax.inference.pipeline import Pipeline
from sana_jax.models.lora import KEY
from sana_jax.models.sana import Sana
from sana_jax.objectives.sprint import TARGET
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import common, init_from, lora
from sana_jax.tasks.sprint import task as sprint_task
from sana_jax.tools.plan import steps
from sana_jax.training.loop import train
from sana_jax.tree import leaves
from sana_jax.weights import folder as folders

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
TEACHER, SPRINT = GOLDEN / 'tiny_sana', GOLDEN / 'tiny_sprint'


@pytest.fixture
def config(folder, tmp_path):
  """The smallest tuning of tiny_sprint."""
  config = base.train('sprint')
  config.autoencoder = config.text_encoder = str(TEACHER)
  config.init_from = str(SPRINT)
  config.data.update(
    source='folder', path=str(folder), size_px=32, threads=0, index_path=''
  )
  config.data.max_bad_fraction = 0.5
  config.lora.rank = 2
  config.sprint.update(teacher='none', loss='discrete', target_decay=0.9)
  config.update(
    num_steps=2,
    batch_size=4,
    log_every_steps=1,
    checkpoint_every_steps=2,
    pictures_every_steps=0,
    ema_decay=0.0,
  )
  config.inputs.text_length = 16
  config.model.sample_size = 8
  init_from.set_model(config, (), tmp_path / 'none')
  return config


@pytest.fixture(scope='module')
def one_device():
  return make_mesh({'data': 1}, jax.devices()[:1])


def drawn(pipe):
  return pipe.draw(
    'a circle', steps=1, height=32, width=32, use_resolution_binning=False
  )


@pytest.mark.long
@pytest.mark.parametrize('dora', [False, True])
def test_only_the_factors_train_and_the_file_fits_the_sprint(
  config, tmp_path, one_device, dora
):
  config.lora.dora = dora
  task = tasks.open_task(config, tmp_path / 'run', one_device)
  state = train(config, task, tmp_path / 'run', one_device)
  assert set(state.params) == {KEY}
  assert set(state.extra) == {TARGET} and set(state.extra[TARGET]) == {KEY}
  assert set(task.frozen) == {'null_text', 'null_mask'}
  model = tmp_path / 'run/model'
  assert [x.name for x in model.iterdir()] == [
    'pytorch_lora_weights.safetensors'
  ]
  pipe = Pipeline.from_pretrained(TEACHER).replace(
    transformer=folders.load(SPRINT, 'transformer'), sampler='scm'
  )
  adapted = pipe.load_lora(model)
  assert np.any(drawn(adapted) != drawn(pipe))
  off = adapted.set_adapters([])
  np.testing.assert_array_equal(drawn(off), drawn(pipe))


@pytest.mark.long
def test_the_first_student_is_the_base_to_the_bit(config):
  student = common.build(Sana, config)
  adapted = lora.adapted(config, student, sprint_task.tables.SANA)
  parts = sprint_task._parts(config, student, None, adapted)
  params = folders.load(SPRINT, 'transformer').variables['params']
  first = adapted.partial.completed(
    adapted.init(jax.random.key(0)) | jax.tree.map(jnp.asarray, params)
  )
  normal = lambda key, *shape: jax.random.normal(jax.random.key(key), shape)
  x = normal(1, 2, 8, 8, student.in_channels)
  t = jnp.array([0.3, 1.5])
  words = sprint_task.sprint.consistency.Condition(
    normal(2, 2, 16, student.caption_channels),
    jnp.ones((2, 16), bool),
    jnp.full(2, 4.5),
  )
  np.testing.assert_array_equal(
    jax.jit(parts.network)(first, x, t, words).data(),
    jax.jit(parts.student)(params, x, t, words).data(),
  )


@pytest.mark.long
def test_the_target_has_the_factors_alone_and_the_base_is_held_once(config):
  planned = steps.plan(config, make_mesh({}, jax.devices()[:1]))
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  factors = count(planned.state.params)
  assert count(planned.state.extra) == factors
  params = folders.load(SPRINT, 'transformer').variables['params']
  assert set(leaves(planned.base)) == set(leaves(params))
  assert count(planned.base) == count(params)


@pytest.mark.parametrize(
  'changes, key',
  [
    ({'ladd.weight': 0.5, 'ladd.blocks': (0, 1)}, 'ladd.weight'),
    ({'data.masks': 'alpha'}, 'data.masks'),
    ({'trainable': 'head/.*'}, 'trainable'),
    ({'lora.targets': 'to_z'}, 'lora.targets'),
    ({'sprint.target_decay': 0.0}, 'sprint.target_decay'),
  ],
)
def test_settings_that_exclude_adapters_are_refused_by_key(
  config, changes, key
):
  config.update_from_flattened_dict(changes)
  if key == 'ladd.weight':
    config.sprint.teacher = str(TEACHER)
  with pytest.raises(UserError) as e:
    base.check(config)
    tasks.objective(config)
  assert e.value.key == key


def test_adapters_of_a_model_that_is_no_sprint_are_refused(config):
  config.init_from = str(TEACHER)
  with pytest.raises(UserError) as e:
    tasks.exporter(config).start.check(str(TEACHER))
  assert e.value.key == 'init_from' and e.value.value == str(TEACHER)
