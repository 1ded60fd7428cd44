"""Preference tuning: pairs, rewards, rollouts, and resuming within a round."""

import json
import pathlib
import sys
import types

import jax
import numpy as np
from PIL import Image
import pytest

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.data import pairs
from sana_jax.errors import UserError
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import init_from
from sana_jax.tasks.preference import nft, rewards, rollouts
from sana_jax.training import loop
from sana_jax.training.state import merge

MODELS = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
SIZE = 32  # Pixels; 8 x 8 latents.
PROMPTS = ['a red circle', 'two stars', 'a green square']


def brightness(prompts, images):
  return np.asarray(images, np.float64).mean(axis=(1, 2, 3))


@pytest.fixture(autouse=True)
def reward():
  """The module of a user's own reward."""
  sys.modules['own_reward'] = types.SimpleNamespace(
    brightness=brightness,
    pair=lambda prompts, ones, others: ones > others,
    short=lambda prompts, images: np.zeros(1),
  )
  yield
  del sys.modules['own_reward']


@pytest.fixture
def tiny():
  """Makes configs of the golden model."""

  def make(task, **changes):
    config = base.train(task)
    config.init_from = config.autoencoder = config.text_encoder = str(MODELS)
    config.data.update(size_px=SIZE, threads=0, index_path='')
    config.model.sample_size = 8
    config.inputs.text_length = 16
    config.lora.rank = 2
    config.update(
      num_steps=5,
      batch_size=4,
      log_every_steps=1,
      pictures_every_steps=0,
      ema_decay=0.0,
    )
    config.optimizer.update(name='adamw', learning_rate=1e-2)
    if task == 'nft':
      config.nft.update(
        reward='own_reward:brightness',
        prompts_per_round=2,
        images_per_prompt=3,
        round_steps=3,
        steps=2,
      )
    config.update_from_flattened_dict(changes)
    init_from.set_model(config)
    base.check(config)
    return config

  return make


@pytest.fixture
def prompts(tmp_path):
  path = tmp_path / 'prompts.txt'
  path.write_text('\n'.join([*PROMPTS, '', PROMPTS[0]]) + '\n')
  return str(path)


@pytest.fixture
def folder(tmp_path):
  """Five pairs, of bright and of dark pictures."""
  path, rng = tmp_path / 'pairs', np.random.default_rng(0)
  path.mkdir()
  lines = []
  for i in range(5):
    for name, low in (('light', 128), ('dark', 0)):
      pixels = rng.integers(low, low + 128, (SIZE, SIZE, 3), np.uint8)
      Image.fromarray(pixels).save(path / f'{name}{i}.png')
    lines.append(
      {
        'chosen': f'light{i}.png',
        'rejected': f'dark{i}.png',
        'prompt': f'number {i}',
      }
    )
  (path / 'metadata.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )
  return path


def one_device(config):
  return make_mesh(config.mesh, jax.devices()[:1])


def run(config, workdir):
  mesh = one_device(config)
  task = tasks.open_task(config, workdir, mesh)
  return task, loop.train(config, task, workdir, mesh)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((a, b)))


@pytest.mark.long
def test_a_run_that_stops_within_a_round_resumes_to_the_same_bits(
  tiny, prompts, tmp_path
):
  config = tiny('nft', **{'nft.prompts': prompts})
  _, whole = run(config, tmp_path / 'whole')
  config.num_steps = 4  # The second step of the second round.
  run(config, tmp_path / 'cut')
  config.num_steps = 5
  _, cut = run(config, tmp_path / 'cut')
  same(whole, cut)
  # The policy that draws moved at the end of the first round only.
  factors = whole.params['adapters']
  assert any(
    np.any(a != b)
    for a, b in zip(*map(jax.tree.leaves, (factors, whole.extra['old'])))
  )


@pytest.mark.long
def test_a_round_depends_on_its_number_and_policy_alone(
  tiny, prompts, tmp_path
):
  config = tiny('nft', **{'nft.prompts': prompts})
  task, state = run(config, tmp_path)
  base_params = task.start.load(config.init_from, one_device(config))
  params = {**base_params, **state.params, **state.extra}
  collect = task.collect
  numbers = {'row': np.arange(config.batch_size)}
  collect.found = None
  first = collect(params, numbers, 3)
  again = collect(params, numbers, 4)
  collect.found = None
  same(again, collect(params, numbers, 4))
  assert np.any(first['latents'] != again['latents'])
  round_ = collect.found[1]
  assert len(round_['reward']) == 6
  # Prompts have rows of their own, and rewards are compared within each.
  best = round_['reward'].reshape(2, 3).argmax(1)
  assert (round_['weight'].reshape(2, 3).argmax(1) == best).all()
  described = task.objective.batch(config.batch_size)
  assert {k: (x.ndim, x.dtype) for k, x in first.items()} == {
    k: (x.ndim, x.dtype) for k, x in described.items()
  }


@pytest.mark.long
def test_pictures_of_a_round_are_the_same_on_two_devices(
  tiny, prompts, tmp_path
):
  config, found = tiny('nft', **{'nft.prompts': prompts}), []
  for count in (1, 2):
    mesh = make_mesh({'data': count}, jax.devices()[:count])
    task = tasks.open_task(config, tmp_path, mesh)
    planned, key = loop.plan_run(config, task, mesh), jax.random.key(0)
    with jax.set_mesh(mesh):
      state = planned.init(key)
      params = merge(state.params, state.extra, planned.make_base(key))
      found.append(task.collect.drawn(params, 0))
  one, two = found
  for name, tolerance in {'latents': 1e-4, 'text': 1e-4, 'reward': 1}.items():
    np.testing.assert_allclose(one[name], two[name], atol=tolerance)


def test_a_step_takes_each_picture_as_often_as_the_others():
  seen = np.concatenate([rollouts.order(1, 2, step, 6, 4) for step in range(3)])
  np.testing.assert_array_equal(np.bincount(seen), [2] * 6)
  assert sorted(seen[:6]) == list(range(6))
  other = np.concatenate(
    [rollouts.order(1, 3, step, 6, 4) for step in range(3)]
  )
  assert list(other) != list(seen)


def test_prompts_of_a_round_are_distinct_if_there_are_enough():
  found = rollouts.choice(0, 1, prompts=8, count=8)
  assert sorted(found.prompts) == list(range(8))
  assert len(rollouts.choice(0, 1, prompts=2, count=5).prompts) == 5
  assert list(rollouts.choice(0, 2, 8, 8).seeds) != list(found.seeds)


@pytest.mark.long
@pytest.mark.parametrize('latents', ['cached', 'online'])
def test_pairs_are_trained_on(tiny, folder, tmp_path, latents):
  config = tiny(
    'dpo',
    **{
      'data.source': 'pairs',
      'data.path': str(folder),
      'inputs.latents': latents,
    },
  )
  task, state = run(config, tmp_path / 'run')
  batch = next(task.data.batches(seed=0, batch_size=4, rows=range(4)))
  key = 'latents' if latents == 'cached' else 'image'
  assert batch[key].shape[:2] == (4, 2)
  if latents == 'online':
    brighter = batch['image'].mean(axis=(2, 3, 4))
    assert (brighter[:, 0] > brighter[:, 1]).all()
  else:
    metrics = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    # At the first step the model is its own reference.
    assert json.loads(metrics[0])['loss'] == pytest.approx(np.log(2), abs=1e-3)
  assert int(state.step) == 5
  assert (tmp_path / 'run/model/pytorch_lora_weights.safetensors').is_file()


def test_a_pair_source_has_two_records_for_each_line(folder):
  source = pairs.PairSource(folder, SIZE, cache='')
  assert len(source) == 10
  assert [source.name(i) for i in (2, 3)] == ['light1.png', 'dark1.png']
  assert {source[i]['caption'] for i in (2, 3)} == {'number 1'}
  np.testing.assert_array_equal(source.sizes(), [[SIZE, SIZE]] * 10)


def test_pairs_of_two_buckets_are_left_out():
  found = pairs.pairs_of([np.array([0, 1, 3, 4, 8]), np.array([2, 5, 9])])
  assert [list(x) for x in found] == [[0], []]


def test_lines_that_are_no_pair_are_refused(tmp_path):
  with pytest.raises(UserError) as none:
    pairs.read(str(tmp_path))
  assert none.value.key == 'data.path'
  lines = tmp_path / 'metadata.jsonl'
  lines.write_text('\n')
  with pytest.raises(UserError):
    pairs.read(str(tmp_path))
  lines.write_text('{"chosen": "a.png", "prompt": "a"}\n')
  with pytest.raises(UserError) as error:
    pairs.read(str(tmp_path))
  assert error.value.value == 1


@pytest.mark.long
def test_data_that_are_no_pairs_are_refused(tiny, folder, tmp_path):
  with pytest.raises(UserError) as error:
    tasks.open_task(tiny('dpo'), tmp_path)
  assert error.value.key == 'data.source'
  config = tiny('dpo', **{'data.source': 'pairs', 'data.min_size_px': 8})
  with pytest.raises(UserError) as error:
    tasks.open_task(config, tmp_path)
  assert error.value.key == 'data.min_size_px'


def test_other_tasks_do_not_train_on_pairs():
  config = base.train('sana')
  config.data.source = 'pairs'
  with pytest.raises(UserError) as error:
    base.check(config)
  assert error.value.key == 'data.source'


@pytest.mark.parametrize(
  'name', ['', 'nobody', 'no_such_module:score', 'own_reward:pair']
)
def test_rewards_that_cannot_be_used_are_refused(tiny, prompts, name, tmp_path):
  config = tiny('nft', **{'nft.prompts': prompts, 'nft.reward': name})
  with pytest.raises(UserError) as error:
    tasks.open_task(config, tmp_path)
  assert 'nft.reward' in error.value.key


def test_a_reward_of_the_wrong_size_or_that_is_not_finite_is_refused():
  images = np.zeros((2, 4, 4, 3), np.uint8)
  for scorer in (
    lambda prompts, images: np.zeros(1),
    lambda prompts, images: np.array([0, np.nan]),
    lambda prompts, images: None,
  ):
    with pytest.raises(UserError) as error:
      rewards.of_pictures(scorer, 'mine', ['a', 'b'], images)
    assert error.value.key == 'nft.reward'


def test_prompts_are_the_distinct_lines_of_a_file(tiny, prompts, tmp_path):
  config = tiny('nft', **{'nft.prompts': prompts})
  assert nft.read_prompts(config) == PROMPTS
  empty = tmp_path / 'empty.txt'
  empty.write_text('\n')
  for path in (empty, tmp_path / 'missing.txt'):
    config.nft.prompts = str(path)
    with pytest.raises(UserError) as error:
      nft.read_prompts(config)
    assert error.value.key == 'nft.prompts'


def test_marks_and_line_separators_are_read_as_in_other_files(tiny, tmp_path):
  path = tmp_path / 'marked.txt'
  path.write_bytes('\ufeffa\u2028cat\r\na dog\x85\n'.encode())
  config = tiny('nft', **{'nft.prompts': str(path)})
  assert nft.read_prompts(config) == ['a\u2028cat', 'a dog']


@pytest.mark.parametrize(
  ('task', 'key'),
  [('dpo', 'dpo.beta'), ('nft', 'nft.beta'), ('dpo', 'lora.rank')],
)
def test_values_that_must_be_positive_are_checked(task, key):
  config = base.train(task)
  group, name = key.split('.')
  config[group][name] *= 0
  with pytest.raises(UserError) as error:
    base.check(config)
  assert error.value.key == key


def test_a_run_without_a_model_is_refused(tiny, prompts, tmp_path):
  config = tiny('nft', **{'nft.prompts': prompts})
  config.init_from = ''
  with pytest.raises(UserError) as error:
    tasks.open_task(config, tmp_path)
  assert error.value.key == 'init_from'
