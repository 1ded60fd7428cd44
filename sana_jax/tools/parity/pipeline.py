"""Parity of whole pipelines with diffusers', from the same latents.

sana_jax's pipeline is loaded from the folder that diffusers saved. Errors are
the larger of those of the final latents and of the images.
"""

import functools
import pathlib
import tempfile
from typing import Any, NamedTuple

import diffusers
import jax.numpy as jnp
import numpy as np
import torch

from sana_jax.inference import tiling
from sana_jax.inference.conventions import Convention, OFFICIAL
from sana_jax.inference.pipeline import Pipeline
from sana_jax.tools.parity import pipelines
from sana_jax.tools.parity.ledger import (
  BFLOAT16,
  Case,
  Measured,
  PIPELINE,
  relative_error,
)
from sana_jax.tools.parity.pipelines import NEGATIVE, PROMPTS
from sana_jax.weights import folder as folders
from sana_jax.weights.hub import ASSETS

_PATCHES = dict(
  patch_size=2,
  interpolation_scale=1.0,
  norm_elementwise_affine=True,
  attention_bias=True,
  qk_norm=None,
  mlp_ratio=3.0,
)
_SHUFFLED = dict(
  downsample_block_type='pixel_unshuffle',
  upsample_block_type='pixel_shuffle',
  decoder_norm_types=['batch_norm', 'batch_norm', 'rms_norm'],
  decoder_act_fns=['relu', 'relu', 'silu'],
  encoder_layers_per_block=[0, 1, 1],
  decoder_layers_per_block=[0, 1, 1],
  decoder_conv_act_fn='silu',
)


class Run(NamedTuple):
  """Request to both pipelines."""

  what: str
  steps: int = 2
  size: tuple[int, int] = (32, 64)
  prompts: tuple[str, ...] = PROMPTS[:1]
  images: int = 1
  guidance: float = 4.5
  negative: str = NEGATIVE
  euler: bool = False
  transformer: dict[str, Any] = {}
  autoencoder: dict[str, Any] = {}
  binning: bool = False


_RUNS = (
  Run('3 prompts x 2 images, 2 steps, 32 x 64 px', prompts=PROMPTS, images=2),
  Run('20 steps, 64 x 32 px', 20, (64, 32)),
  Run('Euler, 20 steps, 32 x 32 px', 20, (32, 32), euler=True),
  Run('without guidance, 20 steps', 20, (32, 32), guidance=1.0),
  Run('empty negative prompt', negative=''),
  Run(
    'position embedding, patches of 2, affine norms, biases, no QK-norm',
    transformer=_PATCHES,
  ),
  Run('pixel shuffle and batch norm in the autoencoder', autoencoder=_SHUFFLED),
  Run(
    '2 images of 512 x 384 px by way of the bin 576 x 448',
    size=(512, 384),
    images=2,
    binning=True,
    transformer=dict(sample_size=16, num_layers=1),
  ),
)


def cases() -> list[Case]:
  """Cases of both dtypes and conventions, tiles, and the shipped model."""
  case = functools.partial(
    Case, 'pipeline', size='tiny', dtype='float32', bound=PIPELINE
  )
  official = functools.partial(case, against="official, of diffusers' parts")
  return [
    *(case(run.what, measure=functools.partial(_error, run)) for run in _RUNS),
    Case(
      'pipeline',
      '2 steps',
      'tiny',
      'bfloat16',
      BFLOAT16['dc_ae'],
      functools.partial(_bfloat16, Run('bfloat16')),
    ),
    Case(
      'pipeline',
      '20 steps',
      'tiny',
      'bfloat16',
      BFLOAT16['dc_ae'],
      functools.partial(_bfloat16, Run('bfloat16', 20, (32, 32))),
    ),
    official("unconditional half under the prompt's mask", measure=_mask),
    official('continuous timesteps', measure=_continuous),
    official('another eps in the linear attention', measure=_attention_eps),
    official('cross-norm with eps 1e-6', measure=_cross_norm_eps),
    official('flow shift 4', measure=_flow_shift),
    *(
      case(
        f'DC-AE {method} in tiles of {tiles.size} px every {tiles.stride}',
        bound=1e-5,
        measure=functools.partial(_tiles, method, tiles),
      )
      for method in ('encode', 'decode')
      for tiles in (tiling.Tiles(16, 12), tiling.Tiles(32, 12))
    ),
    case('DC-AE decode in slices', bound=1e-5, measure=_slices),
    *(
      case(
        f'the shipped model, 20 steps, guidance {scale}',
        size='shipped',
        measure=functools.partial(_shipped, scale),
      )
      for scale in (1.0, 4.5)
    ),
  ]


def _setup(run: Run, seed):
  theirs = pipelines.make(seed, run.transformer, run.autoencoder)
  if run.euler:
    theirs = diffusers.SanaPipeline(
      **theirs.components
      | dict(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    )
    theirs.set_progress_bar_config(disable=True)
  return theirs


def _run_reference(theirs, run: Run, latents):
  return pipelines.draw(
    theirs,
    run.prompts,
    latents,
    negative_prompt=run.negative,
    height=run.size[0],
    width=run.size[1],
    num_inference_steps=run.steps,
    guidance_scale=run.guidance,
    use_resolution_binning=run.binning,
  )


def _run_ours(ours, run: Run, latents, **more):
  call = functools.partial(
    ours.draw,
    list(run.prompts),
    negative_prompt=run.negative,
    num_images=run.images,
    guidance_scale=run.guidance,
    steps=run.steps,
    height=run.size[0],
    width=run.size[1],
    latents=latents.permute(0, 2, 3, 1).numpy(),
    use_resolution_binning=run.binning,
    **more,
  )
  return call(output_type='latent'), call(output_type='float')


def _latents(theirs, run: Run):
  size = (576, 448) if run.binning else run.size
  return pipelines.noise(theirs, size, len(run.prompts) * run.images)


def _worst(got, want):
  return max(relative_error(np.float32(a), b) for a, b in zip(got, want))


def _error(run: Run, seed):
  theirs = _setup(run, seed)
  latents = _latents(theirs, run)
  want = _run_reference(theirs, run, latents)
  return _worst(_run_ours(pipelines.saved(theirs), run, latents), want)


def _bfloat16(run: Run, seed):
  """bfloat16 error from the float32 folder, bounded by the reference's."""
  theirs = _setup(run, seed)
  latents = _latents(theirs, run)
  want = _run_reference(theirs, run, latents)
  ours = _run_ours(pipelines.saved(theirs, 'bfloat16'), run, latents)
  half = _run_reference(theirs.to(torch.bfloat16), run, latents)
  return Measured(
    _worst(ours, want), max(1.05 * _worst(half, want), BFLOAT16['dc_ae'])
  )


def _variant(seed, change, **more):
  """Error with a part of diffusers changed to the official convention.

  Raises ValueError if the change makes no difference, since the row would show
  nothing.
  """
  run = Run('', prompts=PROMPTS[1:2])
  theirs = pipelines.make(seed)
  ours = pipelines.saved(theirs)
  latents = _latents(theirs, run)
  plain = _run_reference(theirs, run, latents)
  change(theirs)
  want = _run_reference(theirs, run, latents)
  if _worst(plain, want) < 1e-6:
    raise ValueError('the two ways give the same picture')
  if 'module' in more:
    model = ours.transformer
    ours = ours.replace(
      transformer=model._replace(
        module=model.module.clone(**more.pop('module'))
      )
    )
  return _worst(_run_ours(ours, run, latents, **more), want)


def _mask(seed):
  def change(pipe):
    plain = pipe.encode_prompt

    def encode(*args, **kwargs):
      text, mask, negative, _ = plain(*args, **kwargs)
      return text, mask, negative, mask

    pipe.encode_prompt = encode

  return _variant(seed, change, convention=OFFICIAL)


def _continuous(seed):
  def change(pipe):
    scheduler = pipe.scheduler
    plain = scheduler.set_timesteps

    def set_timesteps(*args, **kwargs):
      plain(*args, **kwargs)
      scheduler.timesteps = 1000 * scheduler.sigmas[:-1].double()

    scheduler.set_timesteps = set_timesteps

  return _variant(
    seed, change, convention=Convention(continuous_timesteps=True)
  )


def _attention_eps(seed):
  # Such a small eps shows only with small sums.
  def change(pipe):
    for block in pipe.transformer.transformer_blocks:
      block.attn1.set_processor(_Processor())

  return _variant(seed, change, module=dict(attention_eps=_EPS))


_EPS = 1e-2  # Instead of 1e-8, so that it differs from 1e-15 in float32.


class _Processor:
  """diffusers' SanaLinearAttnProcessor2_0 with another eps."""

  def __call__(
    self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None
  ):
    q, k, v = (
      layer(hidden_states) for layer in (attn.to_q, attn.to_k, attn.to_v)
    )
    if attn.norm_q is not None:
      q, k = attn.norm_q(q), attn.norm_k(k)
    split = lambda x: x.unflatten(2, (attn.heads, -1)).relu()
    q, k = split(q), split(k)
    v = v.unflatten(2, (attn.heads, -1))
    state = torch.einsum('bnhk,bnhv->bhkv', k, v)
    weight = torch.einsum('bnhk,bhk->bnh', q, k.sum(1)) + _EPS
    out = torch.einsum('bnhk,bhkv->bnhv', q, state) / weight[..., None]
    return attn.to_out[0](out.flatten(2))


def _cross_norm_eps(seed):
  def change(pipe):
    for block in pipe.transformer.transformer_blocks:
      block.attn2.norm_q.eps = block.attn2.norm_k.eps = 1e-6

  return _variant(seed, change, module=dict(cross_norm_eps=1e-6))


def _flow_shift(seed):
  def change(pipe):
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(
      pipe.scheduler.config, flow_shift=4.0
    )

  return _variant(seed, change, flow_shift=4.0)


def _autoencoders(seed):
  theirs = pipelines.make(seed).vae
  with tempfile.TemporaryDirectory() as folder:
    theirs.save_pretrained(f'{folder}/vae')
    return theirs, folders.load(pathlib.Path(folder), 'vae')


def _tiles(method, tiles, seed):
  theirs, (module, variables) = _autoencoders(seed)
  theirs.enable_tiling(tiles.size, tiles.size, tiles.stride, tiles.stride)
  channels, side = (3, 4) if method == 'encode' else (4, 1)
  x = torch.randn(1, channels, 8 * side, 7 * side)
  with torch.no_grad():
    out = getattr(theirs, method)(x, return_dict=False)[0]
  got = getattr(tiling, method)(
    module, variables, jnp.asarray(x.permute(0, 2, 3, 1).numpy()), tiles
  )
  return relative_error(got, out.permute(0, 2, 3, 1).numpy())


def _slices(seed):
  theirs, (module, variables) = _autoencoders(seed)
  theirs.enable_slicing()
  x = torch.randn(3, 4, 4, 6)
  with torch.no_grad():
    want = theirs.decode(x).sample.permute(0, 2, 3, 1).numpy()
  got = tiling.one_by_one(
    lambda x: module.apply(variables, x, method='decode'),
    jnp.asarray(x.permute(0, 2, 3, 1).numpy()),
  )
  return relative_error(got, want)


def _shipped(scale, seed):
  """Largest difference of images in [0, 1], documented as 2e-3."""
  theirs = diffusers.SanaPipeline.from_pretrained(ASSETS / 'shapes')
  theirs.set_progress_bar_config(disable=True)
  ours = Pipeline.from_pretrained('shapes', dtype='float32')
  torch.manual_seed(seed)
  size = (ours.size_px,) * 2
  run = Run('', 20, size, ('a red circle left of a blue square',), 2, scale, '')
  latents = pipelines.noise(theirs, size, 2)
  return _worst(
    _run_ours(ours, run, latents), _run_reference(theirs, run, latents)
  )
