"""Pictures of a run whose model gives NaN are drawn, and logged."""

import logging
import pathlib

import jax
import numpy as np
import pytest

from sana_jax import config as base
from sana_jax import Pipeline
from sana_jax.data import sources
from sana_jax.tasks import dc_ae
from sana_jax.tasks.sana import inputs
from sana_jax.tasks.sana.task import Samples
from sana_jax.weights import folder as folders

pytestmark = pytest.mark.long

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'


class Captions(inputs.Inputs):
  """Inputs without data."""

  def __init__(self):
    pass

  def captions(self, count):
    return ['a', 'b'][:count]


def broken(params):
  return jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), params)


@pytest.mark.parametrize('source', ['folder', 'shapes'])
def test_samples_with_nan_are_logged_and_follow_no_prompt(source, caplog):
  pipe = Pipeline.from_pretrained(FOLDER, 'float32')
  config = base.train('sana')
  config.sampling.update(steps=1, guidance_scale=1.0, images=2)
  config.data.source = source
  samples = Samples(config, pipe.transformer.module, Captions())
  samples._pipeline = pipe
  good = pipe.transformer.variables['params']
  with caplog.at_level(logging.INFO, logger='absl'):
    samples.draw(good, 7)
    assert 'NaN' not in caplog.text
    caplog.clear()
    samples.draw(broken(good), 7)
  warning = caplog.records[0].getMessage()
  assert 'Picture 0, 1 of 2' in warning and 'NaN' in warning
  counts = [x.getMessage() for x in caplog.records[1:]]
  assert counts == ['Step 7: 0 of 2 pictures follow theirs.'] * (
    source == 'shapes'
  )


def test_reconstructions_with_nan_are_logged(folder, caplog):
  model = folders.load(FOLDER, 'vae')
  source = sources.open_source('folder', path=folder, size=16, cache=None)
  outputs = dc_ae._Outputs(model.module, source, base.train('dc_ae'))
  params = model.variables['params']
  with caplog.at_level(logging.WARNING):
    outputs.pictures(params, 7)
    assert 'NaN' not in caplog.text
    caplog.clear()
    outputs.pictures(broken(params), 7)
  messages = [record.getMessage() for record in caplog.records]
  assert 'Step 7: 12 reconstructions have NaN or infinity.' in messages
