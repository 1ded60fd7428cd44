"""Arguments of the pipeline's call: types, diffusers' names, defaults."""

import pathlib

import numpy as np
import pytest

import sana_jax
from sana_jax.inference.pipeline import Pipeline

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'


@pytest.fixture(scope='module')
def pipe():
  return Pipeline.from_pretrained(FOLDER, 'float32')


@pytest.mark.long
def test_a_call_written_for_diffusers_runs(pipe):
  theirs = pipe(
    prompt='a cat',
    height=32,
    width=32,
    num_inference_steps=1,
    guidance_scale=1.0,
    num_images_per_prompt=1,
    negative_prompt=None,
    complex_human_instruction=['one', 'two '],
    output_type='np',
    return_dict=True,
    clean_caption=False,
    max_sequence_length=300,
  ).images
  ours = pipe.draw(
    'a cat',
    height=32,
    width=32,
    steps=1,
    guidance_scale=1.0,
    instruction='one\ntwo ',
    output_type='float',
  )
  np.testing.assert_array_equal(theirs, ours)


def test_torch_dtypes_are_read_by_name(pipe):
  class Dtype:
    """Printed as torch prints its own."""

    def __str__(self):
      return 'torch.bfloat16'

  half = Pipeline.from_pretrained(FOLDER, torch_dtype=Dtype())
  assert half.transformer.module.dtype == 'bfloat16'


def test_defaults_are_the_models_own(pipe):
  own = pipe.replace(recommended={'steps': 1, 'guidance_scale': 1.0})
  explicit = pipe.draw(
    'a cat', steps=1, guidance_scale=1.0, output_type='latent'
  )
  np.testing.assert_array_equal(
    own.draw('a cat', output_type='latent'), explicit
  )
  assert pipe.default('steps') == 20 and pipe.default('guidance_scale') == 4.5
  dtype = Pipeline.from_pretrained(FOLDER).transformer.module.dtype
  assert dtype == 'float32'  # Of a CPU.


def test_a_pipeline_is_short_to_print_and_names_what_it_lacks(pipe):
  assert len(repr(pipe)) < 200 and '32 px' in repr(pipe)
  assert 'Pipeline' in dir(sana_jax)
  for part in (pipe.transformer, pipe.autoencoder, pipe.text_encoder):
    assert len(repr(part)) < 500 and type(part.module).__name__ in repr(part)
  for name, hint in (
    ('to', 'mesh'),
    ('vae', 'autoencoder'),
    ('nothing', 'nothing'),
  ):
    with pytest.raises(AttributeError, match=hint):
      getattr(pipe, name)
