"""Dashboards: missing packages, failures, and what Weights & Biases gets."""

import importlib.util
import logging
import sys
import types

from etils import epath
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image
import pytest

from sana_jax import config as rules
from sana_jax.errors import UserError
from sana_jax.training import boards
from sana_jax.training.reporting import Report

pytestmark = pytest.mark.fast

CONFIG = ml_collections.ConfigDict(
  dict(
    num_steps=4,
    batch_size=2,
    log_every_steps=2,
    max_skipped_in_a_row=2,
    wandb='pictures',
  )
)


class Wandb(types.ModuleType):
  """Records calls in place of the package."""

  def __init__(self):
    super().__init__('wandb')
    self.started, self.logged, self.ends, self.error = [], [], 0, None

  def init(self, **values):
    if self.error:
      raise self.error
    self.started.append(values)
    return self

  def Image(self, image):
    return image

  def log(self, values, step):
    self.logged.append((step, values))

  def finish(self):
    self.ends += 1


@pytest.fixture
def wandb(monkeypatch):
  made = Wandb()
  monkeypatch.setitem(sys.modules, 'wandb', made)
  monkeypatch.setitem(sys.modules, 'tensorboard', None)  # Not the subject.
  return made


def train(folder, *steps, image=None):
  metrics = {
    'loss': jnp.float32(0.5),
    'skipped': jnp.int32(0),
    'skipped_in_a_row': jnp.int32(0),
  }
  with Report(epath.Path(folder), CONFIG, lambda n: 0.1, 0) as report:
    for step in steps:
      report(step, metrics)
    if image:
      report.picture(steps[-1], image)


def test_a_project_gets_the_numbers_and_pictures_of_the_run(tmp_path, wandb):
  train(tmp_path, 2, 4, image=Image.new('RGB', (6, 4)))
  (started,) = wandb.started
  assert started['project'] == 'pictures'
  assert started['config']['num_steps'] == 4
  losses = [(step, x['loss']) for step, x in wandb.logged if 'loss' in x]
  assert losses == [(2, 0.5), (4, 0.5)]
  (picture,) = [x['samples'] for _, x in wandb.logged if 'samples' in x]
  assert picture.size == (6, 4)
  assert wandb.ends == 1


def test_a_second_start_continues_the_same_run(tmp_path, wandb):
  train(tmp_path / 'one', 2)
  train(tmp_path / 'one', 4)
  train(tmp_path / 'two', 4)
  ids = [x['id'] for x in wandb.started]
  assert ids[0] == ids[1] != ids[2]
  assert {x['resume'] for x in wandb.started} == {'allow'}


def test_a_missing_package_is_reported_before_anything_starts(monkeypatch):
  found = importlib.util.find_spec
  monkeypatch.setattr(
    boards.importlib.util,
    'find_spec',
    lambda name: None if name == 'wandb' else found(name),
  )
  with pytest.raises(UserError) as refused:
    boards.check(CONFIG)
  assert (refused.value.key, refused.value.value) == ('wandb', 'wandb')
  assert "'.[wandb]'" in str(refused.value)
  boards.check(ml_collections.ConfigDict({'wandb': ''}))


def test_a_service_that_refuses_is_a_one_line_error(tmp_path, wandb):
  wandb.error = RuntimeError('api_key not configured\nmore')
  with pytest.raises(UserError) as refused:
    train(tmp_path, 2)
  assert refused.value.key == 'wandb'
  assert 'api_key not configured)' in str(refused.value)


def test_a_failing_dashboard_is_one_warning(tmp_path, wandb, caplog):
  def broken(values, step):
    raise OSError('no network')

  wandb.log = broken
  with caplog.at_level(logging.WARNING, 'absl'):
    train(tmp_path, 2, 4)
  lines = [x for x in caplog.messages if 'no network' in x]
  assert len(lines) == 1 and lines[0].startswith('WeightsAndBiases')
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 2


def test_a_missing_tensorboard_is_one_warning(
  tmp_path, wandb, caplog, monkeypatch
):
  name = 'tensorboard.summary.writer.record_writer'
  monkeypatch.setitem(sys.modules, name, None)
  with caplog.at_level(logging.WARNING, 'absl'):
    train(tmp_path, 2)
  lines = [x for x in caplog.messages if 'TensorBoard gets no file' in x]
  assert len(lines) == 1 and "'.[train]'" in lines[0]


@pytest.mark.parametrize('name', ['two words', 'a/b', 'x' * 129, 'ä'])
def test_a_project_has_a_plain_name(name):
  config = rules.train('sana')
  config.wandb = name
  with pytest.raises(UserError) as refused:
    rules.check(config)
  assert refused.value.key == 'wandb'


def test_numbers_that_are_not_finite_are_left_out(tmp_path, wandb):
  metrics = {
    'loss': jnp.float32(np.nan),
    'skipped': jnp.int32(1),
    'skipped_in_a_row': jnp.int32(1),
  }
  with Report(epath.Path(tmp_path), CONFIG, lambda n: 0.1, 0) as report:
    report(2, metrics)
  ((_, values),) = wandb.logged
  assert 'loss' not in values and values['skipped'] == 1
