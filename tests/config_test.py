"""Configs: overrides, keys, values; all problems in one error."""

import json
import re

from ml_collections import ConfigDict
import pytest

from sana_jax import config as base
from sana_jax.errors import UserError
from sana_jax.tree import flatten

pytestmark = pytest.mark.fast


@pytest.fixture
def config():
  return base.train('sana')


def refusal(function, *args):
  """The UserError that a call raises."""
  with pytest.raises(UserError) as caught:
    function(*args)
  return caught.value


def suggested(error):
  """Words of the question in an error."""
  return re.search(r'\(([^()]*)\?\)', str(error))[1].split()


@pytest.mark.parametrize(
  'argument, key, value',
  [
    ('batch_size=64', 'batch_size', 64),
    ('seed=1_000', 'seed', 1000),
    ('ema_decay=0', 'ema_decay', 0.0),
    ('optimizer.learning_rate=1e-3', 'optimizer.learning_rate', 1e-3),
    ('optimizer.name=came', 'optimizer.name', 'came'),
    (
      'optimizer.groups=.*/bias:weight_decay=0',
      'optimizer.groups',
      '.*/bias:weight_decay=0',
    ),
    ('autoencoder=a=b', 'autoencoder', 'a=b'),
    ('data.path=', 'data.path', ''),
    ('model.remat=dots', 'model.remat', 'dots'),
    ('flow.instruction=false', 'flow.instruction', False),
  ],
)
def test_an_override_takes_the_type_of_its_key(argument, key, value, config):
  base.apply_overrides(config, [f'--config.{argument}'])
  got = flatten(config, '.')[key]
  assert got == value
  assert type(got) is type(value)


def test_the_last_override_counts(config):
  base.apply_overrides(config, ['--config.seed=1', '--config.seed=2'])
  assert config.seed == 2


@pytest.mark.parametrize(
  'argument, key, value, allowed',
  [
    ('--config.batch=64', 'batch', '64', 'batch_size'),
    ('--config.flow.shfit=1', 'flow.shfit', '1', 'caption_dropout'),
    ('--config.flows.shift=1', 'flows.shift', '1', 'flow.shift'),
    ('--config.seed.x=1', 'seed.x', '1', 'seed'),
    ('--config.flow=1', 'flow', '1', 'flow.caption_dropout'),
    ('--config.seed=1.5', 'seed', '1.5', 'a whole number'),
    ('--config.seed=', 'seed', '', 'a whole number'),
    ('--config.ema_decay=high', 'ema_decay', 'high', 'a number'),
    ('--config.model.qk_norm=1', 'model.qk_norm', '1', 'true or false'),
    ('--config.seed', '--config.seed', '--config.seed', '--config.KEY=VALUE'),
    ('--seed=1', '--seed', '--seed=1', '--config.KEY=VALUE'),
  ],
)
def test_a_bad_override_is_refused(argument, key, value, allowed, config):
  before = config.to_json()
  error = refusal(base.apply_overrides, config, [argument])
  assert (error.key, error.value) == (key, value)
  assert error.allowed == allowed or allowed in error.allowed
  assert config.to_json() == before


@pytest.mark.parametrize(
  'argument, meant',
  [
    ('--config.flow.shfit=1', 'flow.shift'),
    ('--config.shift=1', 'flow.shift'),
    ('--config.batch_sise=8', 'batch_size'),
    ('--config.optimiser.name=came', 'optimizer.name'),
    ('--config.mesh.tensors=2', 'mesh.tensor'),
  ],
)
def test_the_nearest_key_is_suggested(argument, meant, config):
  error = refusal(base.apply_overrides, config, [argument])
  assert meant in suggested(error)


def test_tuples_are_not_for_the_command_line():
  error = refusal(
    base.apply_overrides,
    base.train('dc_ae'),
    ['--config.model.encoder_widths=1'],
  )
  assert error.key == 'model.encoder_widths'


@pytest.mark.parametrize('task', base.TASKS)
def test_the_defaults_are_locked_and_pass(task):
  config = base.train(task)
  base.check(config)
  base.check_keys(config)
  assert config.is_locked
  with pytest.raises(AttributeError, match='num_step'):
    config.num_step = 3


def test_an_unknown_task_is_refused():
  error = refusal(base.train, 'dcae')
  assert (error.key, error.value, error.allowed) == ('task', 'dcae', base.TASKS)
  assert 'dc_ae' in suggested(error)


@pytest.mark.parametrize(
  'key, value, allowed',
  [
    ('num_steps', 0, 'positive'),
    ('batch_size', -4, 'positive'),
    ('batch_size', 2**31, 'less than 2 ** 31'),
    ('seed', -1, 'zero or more'),
    ('seed', None, 'a whole number'),
    ('pictures_every_steps', -1, 'zero or more'),
    ('checkpoint_cache', 'gs://b', "a local folder, of each host's own"),
    ('ema_decay', 1.0, 'at least 0 and less than 1'),
    ('flow.caption_dropout', -0.1, 'at least 0 and less than 1'),
    ('flow.shift', 0.0, 'positive'),
    ('flow.shift', float('nan'), 'finite'),
    ('flow.density', 'normal', ('logit_normal', 'uniform')),
    ('optimizer.learning_rate', float('inf'), 'finite'),
    ('optimizer.learning_rate', 0.0, 'positive'),
    ('optimizer.b3', 1.0, 'at least 0 and less than 1'),
    ('optimizer.eps', -1e-8, 'zero or more'),
    ('optimizer.decay_fraction', 0.0, 'more than 0 and at most 1'),
    ('data.caption_temperature', 0.0, 'positive'),
    ('data.min_score', -1.0, 'zero or more'),
    ('data.min_size_px', 1.5, 'a whole number'),
    ('data.max_bad_fraction', 1.1, 'from 0 to 1'),
    ('data.size_px', 2**15, 'at most 16384'),
    ('max_skipped_fraction', -0.1, 'from 0 to 1'),
    ('data.max_aspect_ratio', 0.5, '1 or more, or 0 for any'),
    ('data.columns.captions', 3, 'text'),
    ('watch.divergence_factor', 0.5, 'more than 1, or 0'),
    ('dtype', 'int8', ('float32', 'bfloat16')),
    ('param_dtype', 'float16', ('float32', 'bfloat16')),
    ('model.depth', 0, 'positive'),
    ('model.remat', True, 'text'),
    ('model.remat', 'yes', ('none', 'full', 'dots', 'offload')),
    ('model.width', 1152 + 36, 'multiples of 16'),
    ('keep_every_steps', 750, 'multiples of 500'),
  ],
)
def test_a_bad_value_is_refused_by_its_key(key, value, allowed, config):
  error = refusal(base.check, changed(config, key, value))
  assert error.key == key and error.allowed == allowed
  assert error.value is value or error.value == value
  assert str(error).startswith(f'config.{key}=') and str(error).endswith('.')


def changed(config, key, value):
  with config.unlocked(), config.ignore_type():
    *parents, last = key.split('.')
    node = config
    for part in parents:
      node = node[part]
    node[last] = value
  return config


@pytest.mark.parametrize(
  'key',
  [
    'sampling.sampler',
    'data.source',
    'data.caption_rule',
    'optimizer.name',
    'optimizer.schedule',
    'optimizer.auto_lr',
    'inputs.latents',
    'inputs.text',
    'inputs.dtype',
    'kernels.glumb_conv',
  ],
)
def test_a_choice_is_of_its_words_and_the_nearest_is_suggested(key, config):
  word = base.table('sana')[key].check.choices[-1]
  base.check(changed(config, key, word))
  error = refusal(base.check, changed(config, key, f'{word}x'))
  assert (error.key, error.value) == (key, f'{word}x')
  assert word in error.allowed and word in suggested(error)


@pytest.mark.parametrize(
  'task, key',
  [
    (task, key)
    for task in base.TASKS
    for key, entry in base.table(task).items()
    if key.startswith('model.') and type(entry.default) is int
  ],
)
def test_the_sizes_of_models_are_bounded(task, key):
  error = refusal(base.check, changed(base.train(task), key, 2**31 - 1))
  assert error.key == key and error.allowed.startswith('at most ')


@pytest.mark.parametrize(
  'task, key, value',
  [
    ('sana', 'model.width', 10**6),
    ('text_encoder', 'model.width', 10**6),
    ('text_encoder', 'model.hidden', 10**6),
    ('text_encoder', 'model.vocab_size', 10**8),
    ('sana', 'model.depth', 5000),
    ('dc_ae', 'model.encoder_widths', (8, 10**6)),
    ('dc_ae', 'model.decoder_depths', (1, 10**6)),
    ('dc_ae', 'model.encoder_scales', ((), (10**6,))),
    ('dc_ae', 'model.encoder_widths', (8,) * 1000),
  ],
)
def test_absurd_sizes_are_refused(task, key, value):
  assert refusal(base.check, changed(base.train(task), key, value)).key == key


def test_heads_share_keys_evenly():
  config = base.train('text_encoder')
  config.model.kv_heads = 3
  error = refusal(base.check, config)
  assert (error.key, error.value) == ('model.heads', 8)
  assert error.allowed == 'multiples of 3'


@pytest.mark.parametrize(
  'key',
  ['autoencoder', 'data.path', 'data.split', 'optimizer.groups', 'model.extra'],
)
def test_half_a_surrogate_pair_is_refused_in_any_text(key, config):
  error = refusal(base.check, changed(config, key, 'x\ud83d'))
  assert error.key == key and 'half a surrogate pair' in error.allowed
  assert str(error).isprintable()


def test_text_with_a_whole_pair_can_be_written(config):
  changed(config, 'data.path', '\U0001f600')
  base.check(config)
  assert json.loads(config.to_json())['data']['path'] == '\U0001f600'


def test_all_problems_are_in_one_error(config):
  config.num_steps, config.seed, config.flow.std = 0, -1, -1.0
  config.trainable, config.optimizer.groups = '(', 'x'
  error = refusal(base.check, config)
  problems = str(error).rstrip('.').split('; ')
  assert [x.partition('=')[0].partition(':')[0] for x in problems] == [
    'config.flow.std',
    'config.num_steps',
    'config.optimizer.groups',
    'config.seed',
    'config.trainable',
  ]
  assert error.key == 'flow.std'


def test_a_whole_number_is_a_number(config):
  with config.ignore_type():
    config.optimizer.learning_rate = 1
  base.check(config)


def test_other_keys_than_the_task_has_are_refused():
  config = ConfigDict(base.train('text_encoder').to_dict())
  del config.text.length
  config.flow = {'shift': 3.0}
  config.num_step = 3
  error = refusal(base.check_keys, config)
  assert error.key == 'text.length'
  assert [problem.split()[0] for problem in str(error).split('; ')][:3] == [
    'config.text.length',
    'config.flow.shift',
    'config.num_step',
  ]
  assert 'num_steps' in suggested(error)


def test_variants_are_known():
  assert base.parse_arg('') == ''
  assert base.parse_arg('quick') == 'quick'
  error = refusal(base.parse_arg, 'quik')
  assert (error.value, error.allowed) == ('quik', ('quick',))
  assert 'quick' in suggested(error)


@pytest.mark.parametrize('task', base.TASKS)
def test_training_in_float16_is_refused(task):
  config = base.train(task)
  config.dtype = 'float16'
  assert refusal(base.check, config).key == 'dtype'
