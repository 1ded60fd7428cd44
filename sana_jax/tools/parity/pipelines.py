"""Small diffusers SANA pipelines with random weights, and their counterparts.

Prompts go through diffusers one at a time: for several images of several
prompts, 0.42 repeats masks and embeddings in different orders.
"""

from collections.abc import Mapping, Sequence
import contextlib
import pathlib
import tempfile
from typing import Any
import warnings

import diffusers
import numpy as np
import torch
import transformers

from sana_jax.inference.pipeline import Pipeline
from sana_jax.text import tokenizer as tokenizers
from sana_jax.text.prompts import INSTRUCTION_LINES

for library in (diffusers, transformers):
  library.utils.logging.set_verbosity_error()
  library.utils.logging.disable_progress_bar()

# Few words, more than 16 tokens, and more than SANA's maximum of 300.
PROMPTS = (
  'a red circle',
  'A cat sleeping on a warm, sunny windowsill by red flowers and blue squares ',
  'three green squares over a lamp ' * 60,
)
NEGATIVE = 'blurry, dusk'
TRANSFORMER = dict(
  in_channels=4,
  out_channels=4,
  num_attention_heads=3,
  attention_head_dim=8,
  num_layers=2,
  num_cross_attention_heads=2,
  cross_attention_head_dim=12,
  cross_attention_dim=24,
  caption_channels=16,
  sample_size=8,
  qk_norm='rms_norm_across_heads',
)
AUTOENCODER = dict(
  latent_channels=4,
  attention_head_dim=8,
  encoder_block_types=['ResBlock', 'ResBlock', 'EfficientViTBlock'],
  decoder_block_types=['ResBlock', 'ResBlock', 'EfficientViTBlock'],
  encoder_block_out_channels=[8, 8, 16],
  decoder_block_out_channels=[8, 16, 16],
  encoder_layers_per_block=[1, 1, 1],
  decoder_layers_per_block=[1, 1, 1],
  encoder_qkv_multiscales=[[], [], [5]],
  decoder_qkv_multiscales=[[], [], [5]],
  downsample_block_type='Conv',
  upsample_block_type='interpolate',
  scaling_factor=0.41407,
)
TEXT_ENCODER = dict(
  hidden_size=16,
  intermediate_size=32,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=8,
  query_pre_attn_scalar=8,
  sliding_window=64,
  max_position_embeddings=2048,
)


def make(
  seed: int,
  transformer: Mapping[str, Any] | None = None,
  autoencoder: Mapping[str, Any] | None = None,
  prompts: Sequence[str] = PROMPTS,
  flow_shift: float = 3.0,
) -> diffusers.SanaPipeline:
  """SanaPipeline with a trained tokenizer and random weights elsewhere.

  Args:
    transformer, autoencoder: changes to their configs.
  """
  torch.manual_seed(seed)
  tokenizer = tokenizers.train([*INSTRUCTION_LINES, *prompts, NEGATIVE], 600)
  config = transformers.Gemma2Config(
    vocab_size=len(tokenizer), attn_implementation='eager', **TEXT_ENCODER
  )
  pipe = diffusers.SanaPipeline(
    tokenizer=tokenizer,
    text_encoder=randomise(transformers.Gemma2Model(config)),
    vae=randomise(diffusers.AutoencoderDC(**AUTOENCODER | (autoencoder or {}))),
    transformer=randomise(
      diffusers.SanaTransformer2DModel(**TRANSFORMER | (transformer or {}))
    ),
    scheduler=diffusers.DPMSolverMultistepScheduler(
      flow_shift=flow_shift,
      prediction_type='flow_prediction',
      use_flow_sigmas=True,
    ),
  )
  pipe.set_progress_bar_config(disable=True)
  return pipe


def make_sprint(
  seed: int, transformer: Mapping[str, Any] | None = None
) -> diffusers.SanaSprintPipeline:
  """SanaSprintPipeline, otherwise as `make`."""
  guided = dict(guidance_embeds=True) | (transformer or {})
  parts = make(seed, guided).components
  pipe = diffusers.SanaSprintPipeline(
    **parts | dict(scheduler=diffusers.SCMScheduler())
  )
  pipe.set_progress_bar_config(disable=True)
  return pipe


@torch.no_grad()
def randomise(model: torch.nn.Module) -> torch.nn.Module:
  """Randomises every norm, bias and table; sets evaluation mode."""
  for name, p in model.named_parameters():
    if 'norm' in name and name.endswith('weight'):
      p.add_(torch.randn_like(p) * 0.2)
    elif p.ndim == 1 or 'table' in name:
      p.copy_(torch.randn_like(p) * 0.2)
    elif 'embed_tokens' in name or '_proj.weight' in name:
      p.copy_(torch.randn_like(p) * 0.2)  # transformers initialises with 0.02.
  return model.eval()


def saved(
  theirs: diffusers.DiffusionPipeline, dtype: str = 'float32', **how: Any
) -> Pipeline:
  """sana_jax's pipeline, loaded from the folder that diffusers saves."""
  with tempfile.TemporaryDirectory() as folder:
    theirs.save_pretrained(folder)
    return Pipeline.from_pretrained(pathlib.Path(folder), dtype=dtype, **how)


def noise(
  pipe: diffusers.SanaPipeline, size: tuple[int, int], count: int
) -> torch.Tensor:
  """Latents [b c y x] for images of `size`, from torch's current seed."""
  height, width = (side // pipe.vae_scale_factor for side in size)
  return torch.randn(count, pipe.transformer.config.in_channels, height, width)


@torch.no_grad()
def draw(
  pipe: diffusers.SanaPipeline,
  prompts: Sequence[str],
  latents: torch.Tensor,
  **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
  """diffusers' latents and images, channels last, one prompt at a time."""
  each = len(latents) // len(prompts)
  out, images = [], []
  with quiet():
    for prompt, start in zip(prompts, latents.split(each)):
      run = lambda kind, prompt=prompt, start=start: (
        pipe(
          prompt,
          latents=start,
          num_images_per_prompt=each,
          output_type=kind,
          **options,
        ).images
      )
      out.append(run('latent').float().permute(0, 2, 3, 1).numpy())
      images.append(np.asarray(run('np')))
  return np.concatenate(out), np.concatenate(images)


@contextlib.contextmanager
def quiet():
  """Context that hides a warning of diffusers' scheduler on NumPy 2."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)
    yield
