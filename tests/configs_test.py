"""Every config that is shipped makes a model, before any training."""

import pathlib
import re

import jax
import pytest

from sana_jax import config as base
from sana_jax.errors import UserError
from sana_jax.launch.config_files import load_config
from sana_jax.models import abstract
from sana_jax.models.dc_ae import DCAE
from sana_jax.models.gemma2 import Gemma2
from sana_jax.models.patchgan import PatchGAN
from sana_jax.models.sana import Sana
from sana_jax.optim import factory, freezing
from sana_jax.sharding import rules, tables
from sana_jax.sharding.mesh import make_mesh
from sana_jax.training.tasks import common

NAMES = sorted(
  p.stem for p in (pathlib.Path(__file__).parents[1] / 'configs').glob('*.py')
  if p.stem != '__init__')
# What the other two models decide for the transformer.
SANA_MORE = dict(in_channels=16, out_channels=16, caption_channels=128)


def shapes_and_table(config):
  """The parameters' shapes, and the table that must name each of them."""
  key = jax.random.key(0)
  match config.task:
    case 'sana':
      module = common.build(Sana, config, **SANA_MORE)
      return abstract.transformer(module), tables.SANA
    case 'dc_ae':
      module, table = common.build(DCAE, config), tables.DC_AE
      side = config.data.size_px
      inputs = [jax.ShapeDtypeStruct((1, side, side, 3), 'float32')]
    case 'text_encoder':
      module = common.build(
        Gemma2, config, vocab_size=config.text.vocabulary)
      table = tables.GEMMA2
      inputs = [jax.ShapeDtypeStruct((1, config.text.length), 'int32'),
                jax.ShapeDtypeStruct((1, config.text.length), 'bool')]
  shapes = jax.eval_shape(module.init, key, *inputs)['params']
  if config.task == 'dc_ae' and config.loss.gan:
    shapes['discriminator'] = jax.eval_shape(
      PatchGAN().init, key, *inputs)['params']
  return shapes, table


def variants(name):
  """What may stand behind the config's name, as the config itself says."""
  with pytest.raises(UserError) as told:
    load_config(f'{name}:?')
  said = re.search('allowed are (.*), or none', str(told.value))[1]
  return [name, *(f'{name}:{variant}' for variant in said.split(', '))]


@pytest.mark.parametrize('name', [v for name in NAMES for v in variants(name)])
def test_a_shipped_config_makes_a_model_that_can_be_sharded(name):
  config = load_config(name)
  base.check_keys(config)
  base.check(config)
  assert config.is_locked
  tx = factory.make(config.optimizer, config.num_steps)
  shapes, table = shapes_and_table(config)
  mesh = make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  placed = rules.shardings(shapes, table, mesh)  # Raises unless exact.
  assert jax.tree.structure(placed) == jax.tree.structure(shapes)
  trained, _ = freezing.split(shapes, config.trainable)
  assert jax.eval_shape(tx.init, trained) is not None


@pytest.mark.parametrize('name', NAMES)
def test_a_variant_that_is_not_there_is_told(name):
  with pytest.raises(UserError, match="no variant 'tiny'; allowed are "):
    load_config(f'{name}:tiny')


@pytest.mark.parametrize('name', NAMES)
def test_a_config_says_how_it_is_run(name):
  text = (pathlib.Path(__file__).parents[1] / f'configs/{name}.py').read_text()
  assert f'sana-jax train --config configs/{name}.py' in text.split('"""')[1]
