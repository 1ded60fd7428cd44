"""Writes tests/golden/tiny_sana/ with diffusers and transformers.

  python tests/parity/goldens_sana.py

A whole SANA with random weights, as SanaPipeline.save_pretrained lays it out,
and golden.safetensors: noise, and the latents and pictures that diffusers makes
of it. Prompts go through diffusers one at a time: for several prompts times
several images its 0.42 repeats the masks in another order than the embeddings.
"""

import json
import pathlib
import shutil

import diffusers
from safetensors.numpy import save_file
import torch
import transformers

from sana_jax.text import tokenizer as tokenizers
from sana_jax.text.prompts import INSTRUCTION_LINES

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
# Few words, more than 16 tokens, and more than the 300 that SANA reads.
PROMPTS = ('a red circle', 'A cat sleeping on a warm, sunny windowsill by red '
           'flowers and blue squares ', 'three green squares over a lamp ' * 60)
NEGATIVE = 'blurry, dusk'
IMAGES = 2  # Of each prompt.
GUIDANCE = 4.5
SIZE = (32, 64)  # Pixels.
TRANSFORMER = dict(
  in_channels=4, out_channels=4, num_attention_heads=3, attention_head_dim=8,
  num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=12,
  cross_attention_dim=24, caption_channels=16, sample_size=8,
  qk_norm='rms_norm_across_heads')
AUTOENCODER = dict(
  latent_channels=4, attention_head_dim=8,
  encoder_block_types=['ResBlock', 'ResBlock', 'EfficientViTBlock'],
  decoder_block_types=['ResBlock', 'ResBlock', 'EfficientViTBlock'],
  encoder_block_out_channels=[8, 8, 16],
  decoder_block_out_channels=[8, 16, 16],
  encoder_layers_per_block=[1, 1, 1], decoder_layers_per_block=[1, 1, 1],
  encoder_qkv_multiscales=[[], [], [5]], decoder_qkv_multiscales=[[], [], [5]],
  downsample_block_type='Conv', upsample_block_type='interpolate',
  scaling_factor=0.41407)
TEXT_ENCODER = dict(
  hidden_size=16, intermediate_size=32, num_hidden_layers=2,
  num_attention_heads=4, num_key_value_heads=2, head_dim=8,
  query_pre_attn_scalar=8, sliding_window=64, max_position_embeddings=2048)


def make_pipeline(seed: int) -> diffusers.SanaPipeline:
  """SanaPipeline with a trained tokenizer and random weights elsewhere."""
  torch.manual_seed(seed)
  tokenizer = tokenizers.train([*INSTRUCTION_LINES, *PROMPTS, NEGATIVE], 600)
  config = transformers.Gemma2Config(
    vocab_size=len(tokenizer), attn_implementation='eager', **TEXT_ENCODER)
  pipe = diffusers.SanaPipeline(
    tokenizer=tokenizer,
    text_encoder=randomise(transformers.Gemma2Model(config)),
    vae=randomise(diffusers.AutoencoderDC(**AUTOENCODER)),
    transformer=randomise(diffusers.SanaTransformer2DModel(**TRANSFORMER)),
    scheduler=diffusers.DPMSolverMultistepScheduler(
      flow_shift=3.0, prediction_type='flow_prediction', use_flow_sigmas=True))
  pipe.set_progress_bar_config(disable=True)
  return pipe


@torch.no_grad()
def randomise(model: torch.nn.Module) -> torch.nn.Module:
  """Values that matter in every norm, bias and table; evaluation mode."""
  for name, p in model.named_parameters():
    if 'norm' in name and name.endswith('weight'):
      p.add_(torch.randn_like(p) * 0.2)
    elif p.ndim == 1 or 'table' in name:
      p.copy_(torch.randn_like(p) * 0.2)
    elif 'embed_tokens' in name or '_proj.weight' in name:
      p.copy_(torch.randn_like(p) * 0.2)  # transformers starts at 0.02.
  return model.eval()


def noise(size=SIZE) -> torch.Tensor:
  """Latents of every image, [b c y x], from torch's present seed."""
  height, width = (side // 4 for side in size)
  return torch.randn(
    len(PROMPTS) * IMAGES, AUTOENCODER['latent_channels'], height, width)


@torch.no_grad()
def sample(pipe, latents, steps, scheduler='dpm', size=SIZE):
  """diffusers' final latents [b y x c] and images [b y x 3] in [0, 1]."""
  if scheduler == 'euler':
    pipe = diffusers.SanaPipeline(**pipe.components | dict(
      scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)))
    pipe.set_progress_bar_config(disable=True)
  out = []
  for prompt, start in zip(PROMPTS, latents.split(IMAGES)):
    out.append(pipe(
      prompt, negative_prompt=NEGATIVE, latents=start, height=size[0],
      width=size[1], num_images_per_prompt=IMAGES, num_inference_steps=steps,
      guidance_scale=GUIDANCE, use_resolution_binning=False,
      output_type='latent').images)
  out = torch.cat(out)
  images = pipe.vae.decode(out / pipe.vae.config.scaling_factor).sample
  images = (images * 0.5 + 0.5).clamp(0, 1)
  return out.permute(0, 2, 3, 1), images.permute(0, 2, 3, 1)


@torch.no_grad()
def velocity(model):
  """Inputs of one call of the transformer with padded text, and its output."""
  mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
  x, text = torch.randn(2, 4, 4, 6), torch.randn(2, 5, 16)
  t = torch.tensor([999., 136.])
  out = model(x, text, t, encoder_attention_mask=mask).sample
  return {'latents': x.permute(0, 2, 3, 1), 'text': text, 'timesteps': t,
          'mask': mask, 'velocity': out.permute(0, 2, 3, 1)}


def main():
  pipe = make_pipeline(0)
  shutil.rmtree(FOLDER, ignore_errors=True)
  pipe.save_pretrained(FOLDER)
  tensors = {f'one_call.{k}': x for k, x in velocity(pipe.transformer).items()}
  start = tensors['noise'] = noise()
  for scheduler, steps in (('dpm', 2), ('dpm', 20), ('euler', 20)):
    latents, images = sample(pipe, start, steps, scheduler)
    tensors[f'{scheduler}_{steps}.latents'] = latents
    if steps == 2:
      tensors[f'{scheduler}_{steps}.images'] = images
  tensors['noise'] = start.permute(0, 2, 3, 1)
  metadata = {
    'made_by': 'tests/parity/goldens_sana.py',
    'with': f'diffusers {diffusers.__version__}, transformers '
            f'{transformers.__version__}, torch {torch.__version__}',
    'prompts': json.dumps(PROMPTS), 'negative_prompt': NEGATIVE,
    'guidance_scale': str(GUIDANCE), 'size': json.dumps(SIZE)}
  save_file({k: x.contiguous().numpy() for k, x in tensors.items()},
            FOLDER / 'golden.safetensors', metadata)
  for name, x in tensors.items():
    print(f'{name} {tuple(x.shape)}: {x.float().std():.3f}')
  files = [p for p in FOLDER.rglob('*') if p.is_file()]
  print(f'{FOLDER}: {sum(p.stat().st_size for p in files)} bytes')


if __name__ == '__main__':
  main()
