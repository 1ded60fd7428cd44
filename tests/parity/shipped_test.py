"""The shipped model in diffusers: it loads cleanly and draws the same."""

import logging

import numpy as np
import pytest

from sana_jax import Pipeline
from sana_jax.weights.folder import ASSETS

pytestmark = [
  pytest.mark.parity,
  # Of diffusers' DPMSolverMultistepScheduler with NumPy 2.
  pytest.mark.filterwarnings('ignore:__array__ implementation')]
torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

PROMPT = 'a red circle left of a blue square'


@pytest.fixture(scope='module')
def reference():
  return diffusers.SanaPipeline.from_pretrained(ASSETS / 'shapes')


def test_diffusers_loads_the_shipped_folder_without_a_word_on_keys(caplog):
  for name in ('diffusers', 'transformers'):
    logger = logging.getLogger(name)
    logger.propagate = True
  with caplog.at_level(logging.WARNING):
    pipe = diffusers.SanaPipeline.from_pretrained(ASSETS / 'shapes')
  said = ' '.join(record.getMessage() for record in caplog.records).lower()
  assert not [word for word in (
    'not used', 'newly initialized', 'missing', 'unexpected', 'mismatch',
    'unused') if word in said], said
  assert type(pipe.text_encoder).__name__ == 'Gemma2Model'


@pytest.mark.parametrize('guidance_scale', [1.0, 4.5])
def test_the_same_latents_give_the_same_picture(reference, guidance_scale):
  ours = Pipeline.from_pretrained('shapes', dtype='float32')
  channels = ours.transformer.module.in_channels
  side = ours.size_px // ours.autoencoder.module.compression
  latents = np.random.default_rng().normal(
    size=(2, side, side, channels)).astype(np.float32)
  got = ours([PROMPT] * 2, latents=latents, guidance_scale=guidance_scale,
             output_type='float')
  reference.set_progress_bar_config(disable=True)
  want = reference(
    [PROMPT] * 2, latents=torch.tensor(latents.transpose(0, 3, 1, 2)),
    height=ours.size_px, width=ours.size_px, guidance_scale=guidance_scale,
    num_inference_steps=20, output_type='np',
    use_resolution_binning=False).images
  assert np.abs(got - want).max() <= 2e-3
