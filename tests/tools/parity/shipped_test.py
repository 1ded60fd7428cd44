"""The shipped model loads in diffusers; its pictures are in the ledger."""

import logging

import pytest

from sana_jax.weights.hub import ASSETS

pytestmark = [
  pytest.mark.parity,
  # Of diffusers' DPMSolverMultistepScheduler with NumPy 2.
  pytest.mark.filterwarnings('ignore:__array__ implementation'),
]
pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')
transformers = pytest.importorskip('transformers')


def test_diffusers_loads_the_shipped_folder_without_key_warnings(caplog):
  for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_warning()
    logging.getLogger(library.__name__).propagate = True
  with caplog.at_level(logging.WARNING):
    pipe = diffusers.SanaPipeline.from_pretrained(ASSETS / 'shapes')
  logged = ' '.join(record.getMessage() for record in caplog.records).lower()
  assert not [
    word
    for word in (
      'not used',
      'newly initialized',
      'missing',
      'unexpected',
      'mismatch',
      'unused',
    )
    if word in logged
  ], logged
  assert type(pipe.text_encoder).__name__ == 'Gemma2Model'
