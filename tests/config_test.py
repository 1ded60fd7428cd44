"""Configs: overrides, keys, values; every problem in one sentence."""

from ml_collections import ConfigDict
import pytest

from sana_jax import config as base
from sana_jax.errors import UserError


@pytest.fixture
def config():
  return base.train('sana')


@pytest.mark.parametrize('argument, key, value', [
  ('batch_size=64', 'batch_size', 64),
  ('seed=1_000', 'seed', 1000),
  ('ema_decay=0', 'ema_decay', 0.),
  ('optimizer.learning_rate=1e-3', 'optimizer.learning_rate', 1e-3),
  ('optimizer.name=came', 'optimizer.name', 'came'),
  ('autoencoder=a=b', 'autoencoder', 'a=b'),
  ('data.path=', 'data.path', ''),
  ('model.remat=dots', 'model.remat', 'dots'),
  ('flow.instruction=false', 'flow.instruction', False),
])
def test_an_override_takes_the_type_of_its_key(argument, key, value, config):
  base.apply_overrides(config, [f'--config.{argument}'])
  got = base.flatten(config)[key]
  assert got == value
  assert type(got) is type(value)


def test_the_last_override_counts(config):
  base.apply_overrides(config, ['--config.seed=1', '--config.seed=2'])
  assert config.seed == 2


@pytest.mark.parametrize('argument, said', [
  ('--config.batch=64', r"no config.batch; allowed are \['accumulate_steps', "),
  ('--config.flow.shfit=1', r"no config.flow.shfit; allowed are \['caption_"),
  ('--config.flows.shift=1', "no config.flows.shift; allowed are .*flow.sh"),
  ('--config.seed.x=1', r"no config.seed.x; allowed"),
  ('--config.flow=1', r"config.flow is a group; assign one of \['caption_d"),
  ('--config.seed=1.5', "config.seed='1.5' must be a whole number"),
  ('--config.seed=', "config.seed='' must be a whole number"),
  ('--config.ema_decay=high', "config.ema_decay='high' must be a number"),
  ('--config.model.qk_norm=1',
   "config.model.qk_norm='1' must be true or false"),
  ('--config.seed', r"Unknown argument '--config.seed'; overrides look like "),
  ('--seed=1', "Unknown argument '--seed=1'; overrides look like --config."),
])
def test_a_bad_override_is_told(argument, said, config):
  before = config.to_json()
  with pytest.raises(UserError, match=said):
    base.apply_overrides(config, [argument])
  assert config.to_json() == before


def test_tuples_are_not_for_the_command_line():
  with pytest.raises(UserError, match='cannot be set from the command line'):
    base.apply_overrides(
      base.train('dc_ae'), ['--config.model.encoder_widths=1'])


@pytest.mark.parametrize('task', base.TASKS)
def test_the_defaults_are_locked_and_pass(task):
  config = base.train(task)
  base.check(config)
  base.check_keys(config)
  assert config.is_locked
  with pytest.raises(AttributeError, match='num_step'):
    config.num_step = 3


def test_an_unknown_task_is_told():
  with pytest.raises(UserError, match="'vae' is unknown; allowed are .*dc_ae"):
    base.train('vae')


@pytest.mark.parametrize('key, value, said', [
  ('num_steps', 0, 'positive'),
  ('batch_size', -4, 'positive'),
  ('batch_size', 2**31, r'less than 2 \*\* 31'),
  ('seed', -1, 'zero or more'),
  ('seed', None, 'a whole number'),
  ('pictures_every_steps', -1, 'zero or more'),
  ('ema_decay', 1., 'at least 0 and less than 1'),
  ('flow.caption_dropout', -.1, 'at least 0 and less than 1'),
  ('flow.shift', 0., 'positive'),
  ('flow.shift', float('nan'), 'finite'),
  ('optimizer.learning_rate', float('inf'), 'finite'),
  ('flow.density', 'normal', r"one of \['logit_normal', 'uniform'\]"),
  ('sampling.sampler', 'ddim', r"one of \['euler', 'dpm"),
  ('data.source', 'web', r"one of \['shapes', 'tfds', 'folder', 'web"),
  ('data.caption_rule', 'best', r"one of \['official', 'paper', 'first', 'un"),
  ('data.caption_temperature', 0., 'positive'),
  ('data.min_score', -1., 'zero or more'),
  ('data.min_size_px', 1.5, 'a whole number'),
  ('data.max_bad_fraction', 1.1, 'from 0 to 1'),
  ('max_skipped_fraction', -.1, 'from 0 to 1'),
  ('max_skipped_fraction', 1.1, 'from 0 to 1'),
  ('data.max_aspect_ratio', .5, '1 or more, or 0 for any'),
  ('data.columns.captions', 3, 'text'),
  ('dtype', 'int8', r"one of \['float32', 'bfloat16'\]"),
  ('param_dtype', 'float16', r"one of \['float32', 'bfloat16'\]"),
  ('model.depth', 0, 'positive'),
  ('model.remat', True, 'text'),
  ('model.remat', 'yes', r"one of \['none', 'full', 'dots', 'offload'\]"),
  ('model.width', 1152 + 36, r'a multiple of cross_heads=16; .*head_dim=32'),
])
def test_a_bad_value_is_told_by_its_key(key, value, said, config):
  with config.unlocked(), config.ignore_type():
    config.update_from_flattened_dict({key: value})
  said = rf'^config.{key}=\S+ must be {said}.*\.$'
  with pytest.raises(UserError, match=said):
    base.check(config)


def test_heads_share_keys_evenly():
  config = base.train('text_encoder')
  config.model.kv_heads = 3
  with pytest.raises(
      UserError, match='config.model.heads=8 must be a multiple of kv_heads=3'):
    base.check(config)


def test_all_problems_are_one_sentence(config):
  config.num_steps, config.seed, config.flow.std = 0, -1, -1.
  with pytest.raises(UserError) as e:
    base.check(config)
  assert str(e.value) == (
    'config.flow.std=-1.0 must be positive; config.num_steps=0 must be '
    'positive; config.seed=-1 must be zero or more.')


def test_a_whole_number_is_a_number(config):
  with config.ignore_type():
    config.optimizer.learning_rate = 1
  base.check(config)


def test_other_keys_than_the_task_has_are_told():
  config = ConfigDict(base.train('text_encoder').to_dict())
  del config.text.length
  config.flow = {'shift': 3.}
  with pytest.raises(UserError, match='config.text.length is missing; '
                     'config.flow.shift is unknown; take config.train'):
    base.check_keys(config)


def test_variants_are_known():
  assert base.parse_arg('') == ''
  assert base.parse_arg('quick') == 'quick'
  with pytest.raises(UserError, match="no variant 'fast'; allowed are quick"):
    base.parse_arg('fast')


def test_the_end_of_a_cosine_can_be_set(config):
  base.apply_overrides(config, ['--config.optimizer.final_scale=0.5'])
  assert config.optimizer.final_scale == .5


@pytest.mark.parametrize('task', base.TASKS)
def test_training_in_float16_is_refused(task):
  config = base.train(task)
  config.dtype = 'float16'
  with pytest.raises(UserError):
    base.check(config)
