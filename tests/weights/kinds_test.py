"""Registry of models by the class in config.json."""

import dataclasses

import pytest

from sana_jax.errors import UserError
from sana_jax.models.sana import Sana
from sana_jax.weights import kinds

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  'config, part, kind',
  [
    ({'_class_name': 'AutoencoderDC'}, 'vae', kinds.AUTOENCODER),
    ({'_class_name': 'SanaControlNetModel'}, 'controlnet', kinds.CONTROLNET),
    ({'model_type': 'gemma2'}, 'text_encoder', kinds.TEXT_ENCODER),
    ({}, 'transformer', kinds.TRANSFORMER),
  ],
)
def test_a_config_names_its_kind(config, part, kind):
  assert kinds.of_config(config, part) is kind
  assert kinds.part_of(config) == (part if config else None)


@pytest.mark.parametrize(
  'name', ['SanaVideoTransformer3DModel', 'AutoencoderDC', 7, ['x'], {}, '']
)
def test_a_class_that_is_unknown_or_of_another_part_is_refused(name):
  with pytest.raises(UserError) as error:
    kinds.of_config({'_class_name': name}, 'transformer')
  assert (error.value.key, error.value.value) == ('_class_name', name)
  assert error.value.allowed[0] == 'SanaTransformer2DModel'


def test_a_module_finds_its_kind_by_its_class():
  assert kinds.of_module(Sana(64, 2, 2)) is kinds.TRANSFORMER


def test_a_name_is_taken_once_and_a_part_must_exist():
  kinds.register(kinds.AUTOENCODER)  # Itself, again.
  other = dataclasses.replace(kinds.AUTOENCODER, cls=Sana)
  with pytest.raises(ValueError, match='AutoencoderDC.*DCAE'):
    kinds.register(other)
  with pytest.raises(ValueError, match="'x'"):
    kinds.register(dataclasses.replace(other, class_name='New', part='x'))
