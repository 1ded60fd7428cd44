"""Whole pipelines against live diffusers, with other weights in every run."""

import importlib.util
import pathlib

import numpy as np
import pytest

from sana_jax import Pipeline
from sana_jax.inference import pipeline

pytestmark = [
  pytest.mark.parity,
  # Of diffusers' DPMSolverMultistepScheduler with NumPy 2.
  pytest.mark.filterwarnings('ignore:__array__ implementation')]
torch = pytest.importorskip('torch')
pytest.importorskip('diffusers')

_spec = importlib.util.spec_from_file_location(
  'goldens_sana', pathlib.Path(__file__).with_name('goldens_sana.py'))
goldens = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(goldens)


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """diffusers' pipeline, and ours from the folder that it saved."""
  seed = int(np.random.SeedSequence().entropy % 2**31)
  print('seed', seed)
  theirs = goldens.make_pipeline(seed)
  folder = tmp_path_factory.mktemp('model')
  theirs.save_pretrained(folder)
  return theirs, Pipeline.from_pretrained(folder, dtype='float32')


def relative_error(got, want):
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize('scheduler, steps, size', [
  ('dpm', 2, (32, 64)), ('dpm', 20, (32, 32)), ('euler', 20, (32, 32))])
def test_latents_and_images_are_those_of_diffusers(
    pair, scheduler, steps, size):
  theirs, ours = pair
  noise = goldens.noise(size)
  want, pictures = goldens.sample(theirs, noise, steps, scheduler, size)
  how = dict(
    negative_prompt=goldens.NEGATIVE, num_images=goldens.IMAGES,
    guidance_scale=goldens.GUIDANCE, steps=steps, height=size[0],
    width=size[1], latents=noise.permute(0, 2, 3, 1).numpy(),
    sampler='euler' if scheduler == 'euler' else None)
  prompts = list(goldens.PROMPTS)
  error = relative_error(
    ours(prompts, output_type='latent', **how), want.numpy())
  print(f'{scheduler}, {steps} steps: relative error {error:.1e}')
  assert error <= 1e-4
  got = ours(prompts, output_type='float', **how)
  assert np.abs(got - pictures.numpy()).max() <= 2e-3


def test_text_embeddings_are_those_of_diffusers(pair):
  theirs, ours = pair
  prompts = list(goldens.PROMPTS)
  with torch.no_grad():
    want, mask, _, _ = theirs.encode_prompt(
      prompts, False, complex_human_instruction=list(
        pipeline.texts.INSTRUCTION_LINES))
  (got, got_mask), _ = ours.encode_prompts(prompts, '')
  np.testing.assert_array_equal(got_mask, mask.numpy().astype(bool))
  words = np.asarray(got_mask)
  assert relative_error(np.asarray(got)[words], want.numpy()[words]) <= 1e-5
