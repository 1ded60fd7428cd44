"""Pipelines with ControlNets: calls, folders and files."""

import functools
import shutil

from controlled_pipes import controlled, plain, TINY
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from sana_jax.diffusion.guidance import Guidance
from sana_jax.errors import UserError
from sana_jax.inference import denoising, input_image, randomness
from sana_jax.inference.conventions import DIFFUSERS
from sana_jax.inference.pipeline import Pipeline
from sana_jax.inference.schedulers import time_grid
from sana_jax.launch import cli
from sana_jax.models import abstract
from sana_jax.models.controlled import controlled as controlled_network
from sana_jax.models.controlled import Hint
from sana_jax.models.controlnet import controlnet_of
from sana_jax.weights import folder as folders
from sana_jax.weights.lora import names as layer_names
from sana_jax.weights.lora import reading, writing
from sana_jax.weights.lora.lows import Low


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
  folders.index_controlnet(
    tmp_path, folders.read_json(tmp_path / 'controlnet/config.json')
  )
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


@pytest.fixture(scope='module')
def adapter(tmp_path_factory):
  """An adapter file of two layers, of updates that matter."""
  names = ('transformer_blocks.0.attn1.to_q', 'proj_out')
  module, draw = plain().transformer.module, np.random.default_rng(5)
  shapes = {
    layer.key.format(i=0): reading.weight_shape(layer)
    for layer in layer_names.layers(module).values()
  }
  normal = lambda *shape: np.float32(0.5 * draw.normal(size=shape))
  path = tmp_path_factory.mktemp('lora') / 'style.safetensors'
  writing.write_file(
    path,
    {
      name: Low(normal(2, shapes[name][1]), normal(shapes[name][0], 2), 1.0)
      for name in names
    },
  )
  return path


@pytest.mark.long
def test_adapter_net_and_image_together_are_each_applied_by_hand(adapter):
  """The adapter merged into the weights, the net as one network, the image."""
  how = dict(image=np.asarray(image(1)), strength=0.5, control_image=image(0))
  got = draw(controlled().load_lora(adapter), **how)
  pipe = controlled()
  (net,) = pipe.controlnets
  merged = pipe.load_lora(adapter).fuse_lora().transformer
  module, variables = controlled_network(*merged, pipe.controlnets)
  encode = lambda i: input_image.encoded(pipe.autoencoder, np.asarray(image(i)))
  grid = time_grid(pipe.sampler, 2, pipe.flow_shift, DIFFUSERS, None, 0.5)
  noise = pipe.noise(*randomness.of_pictures(1, 0, 1, None), image(0).size)
  start = grid.path.interpolate(encode(1), noise, grid.times[0])
  want = denoising.denoise(
    module,
    variables,
    start / grid.path.scale,
    *pipe.encode_prompts(['a cat']),
    grid,
    sampler=pipe.sampler,
    guidance=Guidance(pipe.default('guidance_scale')),
    control=(Hint(encode(0), jnp.ones(1)),),
  )
  np.testing.assert_allclose(got, want, atol=1e-4)
  for other in (
    draw(controlled(), **how),
    draw(plain().load_lora(adapter), **how | dict(control_image=None)),
    draw(controlled().load_lora(adapter), control_image=image(0)),
  ):
    assert np.abs(other - got).max() > 1e-2
  assert net.module.wiring == 'diffusers'


@pytest.mark.long
def test_the_command_combines_adapter_net_and_image(adapter, tmp_path):
  pipe, model = controlled(), tmp_path / 'model'
  for part in ('vae', 'text_encoder', 'tokenizer', 'scheduler'):
    shutil.copytree(TINY / part, model / part)
  shutil.copy(TINY / 'model_index.json', model)
  folders.write(model, 'transformer', *pipe.transformer)
  folders.write(model, 'controlnet', *pipe.controlnets[0])
  folders.index_controlnet(
    model, folders.read_json(model / 'controlnet/config.json')
  )
  image(0).save(tmp_path / 'control.png')
  image(1).save(tmp_path / 'image.png')
  size = str(pipe.size_px)
  argv = ['sample', '--model', model, '--lora', adapter, '--prompt', 'a cat']
  argv += ['--image', tmp_path / 'image.png', '--strength', '0.5']
  argv += ['--control-image', tmp_path / 'control.png', '--steps', '2']
  argv += ['--height', size, '--width', size, '--out', tmp_path / 'out']
  assert cli.main([*map(str, argv), '--cpu-devices', '1']) == 0
  (made,) = (tmp_path / 'out').glob('00000-0*.png')
  (want,) = (
    Pipeline.from_pretrained(model, 'float32')
    .load_lora(adapter)(
      'a cat',
      image=image(1),
      strength=0.5,
      control_image=image(0),
      steps=2,
      output_type='uint8',
    )
    .images
  )
  with Image.open(made) as got:
    assert np.abs(np.int16(got) - want).max() <= 1
