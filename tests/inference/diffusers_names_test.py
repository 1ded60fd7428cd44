"""Names of diffusers: each that is not supported is answered with ours."""

import inspect

import pytest

from sana_jax.errors import UserError
from sana_jax.inference import diffusers_names
from sana_jax.inference.pipeline import Pipeline

pytestmark = pytest.mark.fast

OURS = inspect.signature(Pipeline.draw).parameters


@pytest.mark.parametrize(
  'name, ours',
  [
    ('generator', 'seed'),
    ('callback_on_step_end', 'on_step'),
    ('callback_on_step_end_tensor_inputs', 'on_step'),
    ('prompt_embeds', 'encode_prompts'),
    ('negative_prompt_embeds', 'encode_prompts'),
    ('sigmas', 'flow_shift'),
  ],
)
def test_an_argument_of_diffusers_is_answered_with_ours(name, ours):
  assert ours in OURS or hasattr(Pipeline, ours)
  with pytest.raises(UserError) as error:
    diffusers_names.arguments({name: 1}, OURS)
  assert error.value.key == name
  assert ours in str(error.value).split(':', 1)[1]


@pytest.mark.parametrize(
  'name, ours',
  [('stpes', 'steps'), ('num_inference_step', 'num_inference_steps')],
)
def test_a_wrong_argument_is_answered_with_the_nearest(name, ours):
  with pytest.raises(UserError) as error:
    diffusers_names.arguments({name: 1}, OURS)
  assert error.value.key == name and error.value.allowed == tuple(OURS)
  assert f'did you mean {ours}' in str(error.value)


def test_names_of_control_become_its_options():
  got = diffusers_names.arguments(
    {
      'prompt': 'x',
      'control_image': 'c.png',
      'controlnet_conditioning_scale': 0.5,
      'control_guidance_end': 0.8,
    },
    ('prompts', 'control_image', 'control'),
  )
  assert got == {
    'prompts': 'x',
    'control_image': 'c.png',
    'control': {'scale': 0.5, 'end': 0.8},
  }
