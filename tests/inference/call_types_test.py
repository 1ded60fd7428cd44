"""Arguments of a wrong type or name; not run where types are checked."""

import numpy as np
import pytest

from sana_jax.errors import UserError

IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
  'given, key',
  [
    (dict(prompts=None), 'prompt'),
    (dict(prompts=5), 'prompt'),
    (dict(prompts=['a', None]), 'prompt'),
    (dict(prompts='a \ud800'), 'prompt'),
    (dict(prompts=[]), 'prompt'),
    (dict(negative_prompt=5), 'negative_prompt'),
    (dict(negative_prompt=['a', 'b']), 'negative_prompt'),
    (dict(instruction=5), 'instruction'),
    (dict(steps='2'), 'steps'),
    (dict(steps=1.0), 'steps'),
    (dict(steps=True), 'steps'),
    (dict(steps=0), 'steps'),
    (dict(num_images=None), 'num_images'),
    (dict(height='64'), 'height'),
    (dict(width=64.5), 'width'),
    (dict(seed='a'), 'seed'),
    (dict(seed=1.5), 'seed'),
    (dict(seed=-1), 'seed'),
    (dict(numbers=['a']), 'numbers'),
    (dict(guidance_scale='4'), 'guidance_scale'),
    (dict(guidance={'interval': 3}), 'interval'),
    (dict(guidance={'pag_scale': 'x'}), 'pag_scale'),
    (dict(flow_shift='x'), 'flow_shift'),
    (dict(sampler=5), 'sampler'),
    (dict(on_step=5), 'on_step'),
    (dict(image=IMAGE, strength='half'), 'strength'),
    (dict(image=IMAGE, mask=IMAGE, padding_mask_crop=1.5), 'padding_mask_crop'),
    (dict(on_estimate=5), 'on_estimate'),
    (dict(output_type=None), 'output_type'),
    (dict(output_type='pt'), 'output_type'),
    (dict(generator=None), 'generator'),
    (dict(callback_on_step_end=print), 'callback_on_step_end'),
    (dict(prompt_embeds=np.zeros(3)), 'prompt_embeds'),
    (dict(clean_caption=True), 'clean_caption'),
    (dict(num_inference_steps=2, steps=2), 'steps'),
    (dict(stpes=2), 'stpes'),
  ],
)
def test_an_argument_of_a_wrong_type_or_name_is_a_user_error(pipe, given, key):
  with pytest.raises(UserError) as error:
    pipe(**{'prompts': 'a cat', **given})
  assert error.value.key == key


@pytest.mark.long
def test_numbers_of_numpy_are_numbers(pipe):
  small = dict(height=32, width=32, steps=1, output_type='np')
  scale, count = np.float32(1), np.int64(1)
  np.testing.assert_array_equal(
    pipe('a cat', **small, guidance_scale=scale, num_images=count),
    pipe('a cat', **small, guidance_scale=1.0, num_images=1),
  )
