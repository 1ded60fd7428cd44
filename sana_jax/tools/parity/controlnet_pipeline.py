"""Parity of pipelines with a ControlNet: diffusers', and the official wiring.

The official pipeline is diffusers' SanaControlNetPipeline with its two networks
replaced by a restatement of NVIDIA's order of blocks.
"""

import functools
from typing import Any

import diffusers
import jax.numpy as jnp
import numpy as np
from PIL import Image
import torch

from sana_jax.inference import hints
from sana_jax.tools.parity import pipelines
from sana_jax.tools.parity.controlnet import official_velocity
from sana_jax.tools.parity.ledger import Case, PIPELINE, relative_error
from sana_jax.tools.parity.pipelines import NEGATIVE, PROMPTS

_SIZE = 32, 64
_NET = {
  **{k: x for k, x in pipelines.TRANSFORMER.items() if k != 'qk_norm'},
  'num_layers': 2,
}
# ControlNets have no norms of queries and keys, and so neither has their base.
_BASE = dict(num_layers=3, qk_norm=None)


def cases() -> list[Case]:
  """Cases of diffusers' pipeline, its parts, and the official wiring."""
  case = functools.partial(
    Case, 'controlnet_pipeline', size='tiny', dtype='float32', bound=PIPELINE
  )
  return [
    case('pipeline, 2 prompts x 2 images, 2 steps', measure=_error),
    case(
      'pipeline, 20 steps, scale 0.7',
      measure=functools.partial(_error, steps=20, scale=0.7, prompts=1),
    ),
    case(
      'pipeline, without guidance',
      measure=functools.partial(_error, guidance=1.0, prompts=1),
    ),
    case('latents of a resized control image', measure=_latents_error),
    case(
      'pipeline, official wiring, 20 steps',
      measure=functools.partial(_error, steps=20, prompts=1, official=True),
      against="official, of diffusers' blocks",
    ),
  ]


def make(seed: int, shared: bool = False) -> diffusers.SanaControlNetPipeline:
  """A pipeline with random weights.

  Args:
    shared: whether the net has the embeddings of its transformer.
  """
  parts = pipelines.make(seed, _BASE).components
  net = pipelines.randomise(diffusers.SanaControlNetModel(**_NET))
  with torch.no_grad():  # They are initialised to zero.
    for layer in (net.input_block, *net.controlnet_blocks):
      layer.weight.copy_(torch.randn_like(layer.weight) * 0.2)
  if shared:
    net.load_state_dict(
      {
        k: v
        for k, v in parts['transformer'].state_dict().items()
        if k.startswith(('patch_embed', 'time_embed', 'caption'))
      },
      strict=False,
    )
  pipe = diffusers.SanaControlNetPipeline(**parts, controlnet=net)
  pipe.set_progress_bar_config(disable=True)
  return pipe


def _control_image(size=_SIZE):
  rng = np.random.default_rng(torch.randint(2**31, (1,)).item())
  image = rng.integers(0, 256, (size[0] // 4, size[1] // 4, 3), np.uint8)
  return Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)


def _error(
  seed, steps=2, scale=1.0, guidance=4.5, prompts=2, official=False
) -> float:
  theirs = make(seed, shared=official)
  ours = pipelines.saved(theirs)
  image, texts = _control_image(), PROMPTS[:prompts]
  latents = pipelines.noise(theirs, _SIZE, 2 * prompts)
  if official:
    _wire_officially(theirs)
    net = ours.controlnets[0]
    net = net._replace(module=net.module.clone(wiring='official'))
    ours = ours.replace(controlnets=(net,))
  options: dict[str, Any] = dict(
    negative_prompt=NEGATIVE,
    height=_SIZE[0],
    width=_SIZE[1],
    guidance_scale=guidance,
    use_resolution_binning=False,
  )
  want = pipelines.draw(
    theirs,
    texts,
    latents,
    control_image=image,
    controlnet_conditioning_scale=scale,
    num_inference_steps=steps,
    **options,
  )
  call = functools.partial(
    ours.draw,
    list(texts),
    control_image=image,
    control={'scale': scale},
    num_images=2,
    steps=steps,
    latents=latents.permute(0, 2, 3, 1).numpy(),
    **options,
  )
  got = call(output_type='latent'), call(output_type='float')
  plain = ours.replace(controlnets=()).draw(
    list(texts),
    num_images=2,
    steps=steps,
    latents=latents.permute(0, 2, 3, 1).numpy(),
    output_type='latent',
    **options,
  )
  if relative_error(np.asarray(plain), want[0]) < 1e-2:
    raise ValueError('the net makes no difference')
  return max(relative_error(np.float32(a), b) for a, b in zip(got, want))


def _wire_officially(pipe):
  """Lets the net pass on its control latents, and the transformer run both."""
  base, net = pipe.transformer, pipe.controlnet

  def collect(hidden_states, controlnet_cond, **_):
    return ((controlnet_cond,),)

  def forward(
    hidden_states,
    encoder_hidden_states,
    encoder_attention_mask,
    timestep,
    controlnet_block_samples,
    **_,
  ):
    return (
      official_velocity(
        base,
        net,
        hidden_states,
        controlnet_block_samples[0],
        encoder_hidden_states,
        timestep,
        encoder_attention_mask,
      ),
    )

  net.forward, base.forward = collect, forward


def _latents_error(seed):
  """A photo of another size, resized and encoded by both."""
  theirs = make(seed)
  ours = pipelines.saved(theirs)
  image = _control_image((48, 96))
  with torch.no_grad():
    pixels = theirs.image_processor.preprocess(image, *_SIZE)
    want = theirs.vae.encode(pixels).latent * theirs.vae.config.scaling_factor
  got = hints.latents_of(ours, [image], '', _SIZE, _SIZE)
  return relative_error(jnp.asarray(got), want.permute(0, 2, 3, 1).numpy())
