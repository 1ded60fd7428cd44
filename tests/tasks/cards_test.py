"""Names in model cards: hub ids, and no paths of a machine."""

import huggingface_hub
import numpy as np
import pytest

from sana_jax.launch.config_files import checked_config
from sana_jax.tasks import cards

pytestmark = pytest.mark.fast
ZOO = 'Efficient-Large-Model/Sana_600M_512px_diffusers'


@pytest.fixture(autouse=True)
def cache(monkeypatch):
  """A cache of the hub with one model."""
  monkeypatch.setattr(
    huggingface_hub,
    'try_to_load_from_cache',
    lambda name, file: '/cache' if name == 'me/cached' else None,
  )


@pytest.mark.parametrize(
  'base, hub_id, name',
  [
    ('sana_600m_512', ZOO, 'sana_600m_512'),
    (ZOO, ZOO, ZOO),
    ('me/cached', 'me/cached', 'me/cached'),
    ('secret/model', None, 'model'),
    ('/home/me/secret/model/', None, 'model'),
    ('gs://secret/run/model', None, 'model'),
    ('shapes', None, 'shapes'),
  ],
)
def test_a_base_model_is_named_without_its_folder(base, hub_id, name):
  assert cards._hub_id(base) == hub_id
  assert cards._name(base) == name


def test_a_path_of_this_machine_is_no_hub_id(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'me' / 'cached').mkdir(parents=True)
  assert cards._hub_id('me/cached') is None


@pytest.mark.parametrize(
  'config', ['shapes', 'shapes_dc_ae', 'shapes_text_encoder']
)
def test_every_task_has_facts(config):
  found = cards._facts(
    checked_config(config, ['--config.data.path=/secret/pets']),
    1200,
    'params',
    {'a': np.zeros((3, 4)), 'b': {'c': np.zeros(5)}},
  )
  assert found['parameters'] == '17'
  assert found['weights'] == 'step 1,200, not averaged'
  assert found['data'] == 'shapes'
  assert '/' not in ''.join(found.values())


def test_the_licence_of_a_base_is_that_of_its_card(tmp_path):
  assert cards._licence_of(str(tmp_path)) is None
  (tmp_path / 'README.md').write_text('---\nlicense: mit\n---\n')
  assert cards._licence_of(str(tmp_path)) == 'mit'
  assert cards._licence_of(ZOO) is None
  assert cards._in_words(ZOO)
