"""The pipeline of the golden folder, loaded once."""

import pathlib

import pytest

from sana_jax import Pipeline

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'


@pytest.fixture(scope='session')
def pipe():
  return Pipeline.from_pretrained(FOLDER, 'float32')
