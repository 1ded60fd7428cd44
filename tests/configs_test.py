"""Every config that is shipped makes a model, before any training."""

import pathlib
import re

import jax
import pytest

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.errors import UserError
from sana_jax.launch.config_files import load_config
from sana_jax.sharding.mesh import make_mesh
from sana_jax.training import optimizers
from sana_jax.training.state import plan

NAMES = sorted(
  p.stem
  for p in (pathlib.Path(__file__).parents[1] / 'configs').glob('*.py')
  if p.stem != '__init__'
)


def variants(name):
  """Variants of a config, from its own error message."""
  with pytest.raises(UserError) as raised:
    load_config(f'{name}:?')
  allowed = re.search('allowed are (.*), or none', str(raised.value))[1]
  return [name, *(f'{name}:{variant}' for variant in allowed.split(', '))]


@pytest.mark.long
@pytest.mark.parametrize('name', [v for name in NAMES for v in variants(name)])
def test_a_shipped_config_makes_a_model_that_can_be_sharded(name):
  config = load_config(name)
  base.check_keys(config)
  base.check(config)
  assert config.is_locked
  objective = tasks.objective(config)
  planned = plan(  # Raises unless the table is exact.
    objective,
    optimizers.make(config, objective),
    make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2}),
    average=config.ema_decay > 0,
    trainable=config.trainable,
  )
  assert jax.tree.leaves(planned.state.params)


@pytest.mark.parametrize('name', NAMES)
def test_an_unknown_variant_raises(name):
  with pytest.raises(UserError) as error:
    load_config(f'{name}:tiny')
  assert (error.value.key, error.value.value) == ('--config', 'tiny')
  assert 'quick' in error.value.allowed or 'runlocal' in error.value.allowed


@pytest.mark.parametrize('name', NAMES)
def test_a_config_documents_its_command(name):
  text = (pathlib.Path(__file__).parents[1] / f'configs/{name}.py').read_text()
  assert f'sana-jax train --config configs/{name}.py' in text.split('"""')[1]
