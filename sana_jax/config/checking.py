"""Checks of a config before any device is used."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from sana_jax import keys
from sana_jax.config.registry import nearest, table, train
from sana_jax.errors import joined, UserError
from sana_jax.tree import flatten


def check_keys(config: ConfigDict) -> None:
  """Raises UserError unless the keys are those of `train(config.task)`.

  The task checks those of config.model, which depend on its size.
  """
  key_names = lambda c: {
    k for k in flatten(c, '.') if not k.startswith('model.')
  }
  want, have = key_names(train(config.get('task'))), key_names(config)
  problems = [
    UserError(f'config.{key} is missing', key=key)
    for key in sorted(want - have)
  ]
  problems += [
    UserError(f'config.{key} is unknown{nearest(key, want)}', key=key)
    for key in sorted(have - want)
  ]
  if problems:
    problems[-1] = UserError(
      f'{problems[-1]}; start from config.train({config.task!r}) and assign '
      'the keys that differ',
      key=problems[-1].key,
    )
    raise joined(problems)


def check(config: ConfigDict) -> None:
  """Raises one UserError that names every invalid value."""
  values = flatten(config, '.')
  problems = list(keys.problems(values, table(config.get('task'))))
  problems = problems or list(_conflicts(config))
  if problems:
    raise joined(problems)


def _conflicts(config: ConfigDict) -> Iterator[UserError]:
  """Errors of values that are valid separately but not together."""
  every, of = config.keep_every_steps, config.checkpoint_every_steps
  if every % of:
    yield UserError(
      f'config.keep_every_steps={every} must be a multiple of '
      f'checkpoint_every_steps={of}, or 0',
      key='keep_every_steps',
      value=every,
      allowed=f'multiples of {of}',
    )
  if config.trainable and config.get('lora', {}).get('rank'):
    yield UserError(
      f'config.trainable={config.trainable!r} must be empty with '
      f'config.lora.rank={config.lora.rank}: only the adapters train',
      key='trainable',
      value=config.trainable,
      allowed=('',),
    )
  if config.get('grow', {}).get('strategy') and not config.init_from:
    yield UserError(
      f'config.grow.strategy={config.grow.strategy!r} needs a model to grow, '
      'config.init_from',
      key='init_from',
      value='',
      allowed='a model folder, hub id or name of the zoo',
    )
  if 'data' in config:
    yield from _unusable(config.data, config)
  if 'model' in config:
    yield from _misfits(config.model)


def _unusable(data, config):
  """Errors of data that the task cannot use."""
  if data.tag_orders and data.caption_rule != 'uniform':
    yield UserError(
      f'config.data.tag_orders={data.tag_orders} needs '
      "config.data.caption_rule='uniform', which draws one of them in each "
      'step',
      key='data.caption_rule',
      value=data.caption_rule,
      allowed=('uniform',),
    )
  if data.masks and config.task != 'sana':
    yield UserError(
      f"config.data.masks={data.masks!r} is for the task 'sana', whose loss "
      'has weights',
      key='data.masks',
      value=data.masks,
      allowed=('',),
    )
  if data.source == 'pairs' and 'dpo' not in config:
    yield UserError(
      "config.data.source='pairs' is for the task 'dpo'; others would train on "
      'the rejected images too',
      key='data.source',
      value=data.source,
    )


def _misfits(model):
  """Errors of widths that are not divisible by their heads."""
  pairs = [
    (key, by, model[by])
    for key, by in (
      ('width', 'cross_heads'),
      ('width', 'heads'),
      ('heads', 'kv_heads'),
    )
    if by in model
  ]
  if 'cross_heads' in model:  # The transformer; its heads have 32 channels.
    pairs.append(('width', 'head_dim', model.get('head_dim', 32)))
  for key, by, size in pairs:
    if model[key] % size:
      yield UserError(
        f'config.model.{key}={model[key]} must be a multiple of {by}={size}',
        key=f'model.{key}',
        value=model[key],
        allowed=f'multiples of {size}',
      )
