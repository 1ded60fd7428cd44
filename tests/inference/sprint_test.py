"""SANA-Sprint in the pipeline, against the pictures that diffusers makes."""

import json
import logging
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from sana_jax import Pipeline
from sana_jax.errors import UserError
from sana_jax.inference import denoising
from sana_jax.sharding.mesh import make_mesh

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
PROMPT = 'a red circle'
GOLDEN = dict(height=32, width=64, num_images=2, seed=3)
SMALL = dict(height=16, width=16, seed=3, output_type='latent')
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.fixture(scope='module')
def golden(sprint_folder):
  return load_file(sprint_folder / 'golden.safetensors')


@pytest.fixture
def draw(sprint):
  """Latents made step by step, by one program for all numbers of steps."""
  return lambda prompt=PROMPT, **how: np.asarray(
    sprint.draw(prompt, **SMALL | dict(on_step=lambda done: None) | how)
  )


def relative_error(got, want):
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize('steps', [1, 2, 4])
def test_pictures_are_those_of_diffusers(draw, golden, steps):
  got = draw(**GOLDEN, steps=steps)
  assert relative_error(got, golden[f'{steps}.latents']) < 1e-5


@pytest.mark.long
def test_the_defaults_of_a_folder_are_diffusers(sprint, golden):
  """Two steps of SCM at 1.5708 and 1.3, guidance 4.5, in one program."""
  assert sprint.sampler == 'scm' and sprint.default('steps') == 2
  got = sprint.draw(PROMPT, **GOLDEN, output_type='float')
  assert relative_error(got, golden['2.images']) < 1e-5


@pytest.mark.long
def test_a_picture_depends_on_its_seed_and_number_alone(draw):
  """The noise of its steps, too."""
  want = draw(num_images=2)
  assert relative_error(want[1], want[0]) > 0.1
  for got in (
    draw(numbers=[1])[0],
    draw(['a cat', PROMPT], seed=[9, 3], numbers=[0, 1])[1],
  ):
    assert relative_error(got, want[1]) < 1e-5
  noise = np.zeros((1, 4, 4, 4), np.float32)
  same = [draw(latents=noise, seed=seed)[0] for seed in (3, 4)]
  assert relative_error(*same) > 0.1


@pytest.mark.long
def test_a_picture_is_the_same_on_a_mesh(sprint_folder, draw):
  mesh = make_mesh({'data': -1}, jax.local_devices()[:2])
  split = Pipeline.from_pretrained(sprint_folder, 'float32', mesh)
  got = split.draw(PROMPT, num_images=2, **SMALL)
  assert relative_error(got, draw(num_images=2)) < 1e-5


def test_one_program_serves_all_scales_of_the_embedded_guidance(draw):
  want = draw()
  size = denoising._advance._cache_size()
  assert relative_error(draw(guidance_scale=1.0), want) > 1e-3
  assert denoising._advance._cache_size() == size


def test_angles_may_be_given(draw):
  want = draw(steps=2)
  np.testing.assert_array_equal(draw(times=[1.5708, 1.3]), want)
  np.testing.assert_array_equal(draw(times=(1.5708, 1.3, 0), steps=2), want)
  assert relative_error(draw(times=[1.5708, 1.0]), want) > 1e-3


def test_a_callback_gets_the_predicted_latents(draw):
  found = []
  one = draw(steps=1)
  got = draw(on_estimate=lambda done, latents: found.append(latents()))
  np.testing.assert_allclose(found[0], one, atol=1e-5)
  np.testing.assert_allclose(found[1], got, atol=1e-5)


def test_a_negative_prompt_has_no_effect_and_is_said_once(sprint, draw, caplog):
  sprint.cache.pop('notes', None)
  want = draw()
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      np.testing.assert_array_equal(draw(negative_prompt='dusk'), want)
  assert len(caplog.records) == 1
  assert 'negative prompt' in caplog.records[0].getMessage()


@pytest.mark.parametrize(
  'options, key',
  [({'interval': (0.1, 0.9)}, 'interval'), ({'apg_eta': 0.0}, 'apg_eta')],
)
def test_options_of_two_predictions_are_refused(draw, options, key):
  with pytest.raises(UserError) as refused:
    draw(guidance=options)
  assert refused.value.key == key


def test_an_image_at_full_noise_is_ignored(draw):
  how = dict(image=IMAGE, strength=1.0)
  np.testing.assert_array_equal(draw(**how), draw())


def test_an_image_with_little_noise_is_kept(sprint, draw):
  """Closed form: x0 = cos t x - sin t v at x = cos t latents + sin t noise."""
  from sana_jax.inference import input_image

  latents = np.asarray(input_image.encoded(sprint.autoencoder, IMAGE))
  moved = [
    relative_error(draw(image=IMAGE, strength=s, steps=1), latents)
    for s in (0.02, 0.01)
  ]
  assert moved[0] < 0.1
  np.testing.assert_allclose(moved[0] / moved[1], 2, rtol=0.1)


def test_strength_scales_the_angles(draw):
  want = draw(image=IMAGE, times=[0.5 * 1.5708, 0.5 * 1.3])
  got = draw(image=IMAGE, strength=0.5)
  np.testing.assert_array_equal(got, want)
  default = draw(image=IMAGE, strength=0.6)
  np.testing.assert_array_equal(draw(image=IMAGE), default)


def test_an_image_needs_the_encoder(pipe):
  with pytest.raises(UserError) as refused:
    pipe.draw(PROMPT, **SMALL, image=IMAGE, sampler='scm')
  assert refused.value.key == 'image'


def changed(folder, tmp_path, part, **values):
  """A copy of the folder with other values in a JSON file."""
  out = tmp_path / 'model'
  shutil.copytree(folder, out)
  config = json.loads((out / part).read_text())
  (out / part).write_text(json.dumps(config | values))
  return out


def test_a_sprint_without_the_guidance_embedding_is_refused(tmp_path):
  folder = changed(
    FOLDER, tmp_path, 'model_index.json', _class_name='SanaSprintPipeline'
  )
  with pytest.raises(UserError) as refused:
    Pipeline.from_pretrained(folder)
  assert refused.value.key == 'guidance_embeds'


@pytest.mark.long
@pytest.mark.parametrize('scale', [1.0, 0.001])
def test_times_are_in_0_1_whatever_the_config_has(
  sprint_folder, tmp_path, scale
):
  """diffusers' pipeline of Sprint ignores timestep_scale."""
  folder = changed(
    sprint_folder, tmp_path, 'transformer/config.json', timestep_scale=scale
  )
  module = Pipeline.from_pretrained(folder).transformer.module
  assert module.timestep_scale == 0.001


@pytest.mark.long
def test_a_flow_is_sampled_by_scm_with_classifier_free_guidance(pipe):
  """Against its own formula, from predictions of the flow at the same points.

  Of one step: x0 = noise - v at t = 1, where v = u + s (c - u).
  """
  how = SMALL | dict(steps=1)
  scm = lambda scale: np.asarray(
    pipe.draw(PROMPT, **how, sampler='scm', guidance_scale=scale)
  )
  # Euler's step from t = 1 to 0 is noise - v, too.
  euler = np.asarray(pipe.draw(PROMPT, **how, sampler='euler'))
  assert relative_error(scm(4.5), euler) < 1e-4
  assert relative_error(scm(1.0), euler) > 1e-2


def test_one_step_of_a_flow_is_noted(pipe, caplog):
  pipe.cache.pop('notes', None)
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      pipe.draw(PROMPT, **SMALL, steps=1)
  assert len(caplog.records) == 1


def test_other_samplers_run_with_a_note(sprint, draw, caplog):
  sprint.cache.pop('notes', None)
  with caplog.at_level(logging.WARNING):
    got = draw(sampler='euler', steps=1)
  assert len(caplog.records) == 1 and 'scm' in caplog.records[0].getMessage()
  # One step from pure noise is the same, however it is made.
  assert relative_error(got, draw(steps=1)) < 1e-4
