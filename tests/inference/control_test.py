"""Pipelines with ControlNets: calls, folders and files."""

import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from sana_jax.errors import UserError
from sana_jax.inference.pipeline import Pipeline
from sana_jax.models import abstract
from sana_jax.models.controlnet import controlnet_of
from sana_jax.weights import folder as folders
from sana_jax.weights.folder import Model

TINY = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
RNG = np.random.default_rng(0)


@functools.cache
def plain():
  """The tiny pipeline, of a base that a ControlNet's config can describe."""
  pipe = Pipeline.from_pretrained(TINY, 'float32', encoder=True)
  module = pipe.transformer.module.clone(qk_norm=False, cross_norm=False)
  return pipe.replace(transformer=_random(module, abstract.transformer_init))


def _random(module, init):
  shapes = jax.eval_shape(init(module), jax.random.key(0))
  return Model(
    module,
    {
      'params': jax.tree.map(
        lambda x: jnp.asarray(0.2 * RNG.normal(size=x.shape), jnp.float32),
        shapes,
      )
    },
  )


@functools.cache
def controlled(wiring='diffusers'):
  net = controlnet_of(plain().transformer.module, 1, wiring)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.2 * RNG.normal(size=x.shape), jnp.float32),
    abstract.controlnet(net)['params'],
  )
  return plain().replace(controlnets=(Model(net, {'params': params}),))


@functools.cache
def image(seed):
  size = plain().size_px
  pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3))
  return Image.fromarray(pixels.astype(np.uint8))


def draw(pipe, prompts='a cat', **more):
  return np.asarray(
    pipe.draw(
      prompts,
      steps=2,
      output_type='latent',
      use_resolution_binning=False,
      **more,
    )
  )


@pytest.mark.long
def test_scale_0_is_the_model_without_the_net_to_the_bit():
  base = draw(plain())
  got = draw(controlled(), control_image=image(0), control={'scale': 0})
  np.testing.assert_array_equal(got, base)
  assert np.abs(draw(controlled(), control_image=image(0)) - base).max() > 1e-2


@pytest.mark.long
def test_each_prompt_has_its_own_control_image():
  images = [image(0), image(1)]
  prompts = ['a cat', 'a dog']
  both = draw(controlled(), prompts, control_image=images, num_images=2)
  for i in range(2):
    got = draw(controlled(), prompts[i], control_image=images[i], num_images=2)
    np.testing.assert_allclose(both[2 * i : 2 * i + 2], got, atol=1e-4)


@pytest.mark.long
def test_a_net_is_used_between_its_start_and_end():
  run = lambda **control: draw(
    controlled(), control_image=image(0), control=control
  )
  always, first, second = run(), run(end=0.5), run(start=0.5)
  assert all(
    np.abs(a - b).max() > 1e-3
    for a, b in ((always, first), (always, second), (first, second))
  )
  steps = []
  got = draw(
    controlled(),
    control_image=image(0),
    control={'end': 0.5},
    on_step=steps.append,
  )
  assert steps == [1, 2]
  np.testing.assert_allclose(got, first, atol=1e-5)


@pytest.mark.long
def test_a_folder_keeps_the_net_and_its_wiring(tmp_path):
  pipe = controlled('official')
  for part in ('vae', 'text_encoder', 'tokenizer', 'scheduler'):
    shutil.copytree(TINY / part, tmp_path / part)
  shutil.copy(TINY / 'model_index.json', tmp_path)
  folders.write(tmp_path, 'transformer', *pipe.transformer)
  folders.write(tmp_path, 'controlnet', *pipe.controlnets[0])
  folders.index_controlnet(tmp_path)
  loaded = Pipeline.from_pretrained(tmp_path, 'float32')
  assert loaded.controlnets[0].module.wiring == 'official'
  want = draw(pipe, control_image=image(0))
  np.testing.assert_allclose(
    draw(loaded, control_image=image(0)), want, atol=1e-4
  )
  added = plain().with_controlnet(tmp_path)
  np.testing.assert_allclose(
    draw(added, control_image=image(0)), want, atol=1e-4
  )
  other = plain().with_controlnet(tmp_path, 'diffusers')
  assert np.abs(draw(other, control_image=image(0)) - want).max() > 1e-3


@pytest.mark.long
def test_a_net_of_another_size_and_an_unknown_wiring_are_refused(tmp_path):
  module = plain().transformer.module
  wide = controlnet_of(module.clone(width=2 * module.width), 1, 'diffusers')
  params = jax.tree.map(
    lambda x: np.zeros(x.shape, np.float32), abstract.controlnet(wide)
  )
  folders.write(tmp_path, 'controlnet', wide, params)
  with pytest.raises(UserError) as error:
    plain().with_controlnet(tmp_path)
  assert error.value.key == 'width'
  with pytest.raises(UserError) as error:
    plain().with_controlnet(tmp_path, 'parallel')
  assert error.value.key == 'wiring'
