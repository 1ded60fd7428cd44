"""Writes tests/golden/tiny_sana/ with diffusers and transformers.

  python tests/tools/parity/goldens_sana.py

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

from sana_jax.tools.parity import pipelines
from sana_jax.tools.parity.pipelines import NEGATIVE, PROMPTS

FOLDER = pathlib.Path(__file__).parents[2] / 'golden' / 'tiny_sana'
IMAGES = 2  # Of each prompt.
GUIDANCE = 4.5
SIZE = (32, 64)  # Pixels.


def noise(size=SIZE) -> torch.Tensor:
  """Latents of every image, [b c y x], from torch's present seed."""
  height, width = (side // 4 for side in size)
  return torch.randn(
    len(PROMPTS) * IMAGES,
    pipelines.AUTOENCODER['latent_channels'],
    height,
    width,
  )


@torch.no_grad()
def sample(pipe, latents, steps, scheduler='dpm', size=SIZE):
  """diffusers' final latents [b y x c] and images [b y x 3] in [0, 1]."""
  if scheduler == 'euler':
    pipe = diffusers.SanaPipeline(
      **pipe.components
      | dict(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    )
    pipe.set_progress_bar_config(disable=True)
  out = []
  for prompt, start in zip(PROMPTS, latents.split(IMAGES)):
    out.append(
      pipe(
        prompt,
        negative_prompt=NEGATIVE,
        latents=start,
        height=size[0],
        width=size[1],
        num_images_per_prompt=IMAGES,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        use_resolution_binning=False,
        output_type='latent',
      ).images
    )
  out = torch.cat(out)
  images = pipe.vae.decode(out / pipe.vae.config.scaling_factor).sample
  images = (images * 0.5 + 0.5).clamp(0, 1)
  return out.permute(0, 2, 3, 1), images.permute(0, 2, 3, 1)


@torch.no_grad()
def velocity(model):
  """Inputs of one call of the transformer with padded text, and its output."""
  mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
  x, text = torch.randn(2, 4, 4, 6), torch.randn(2, 5, 16)
  t = torch.tensor([999.0, 136.0])
  out = model(x, text, t, encoder_attention_mask=mask).sample
  return {
    'latents': x.permute(0, 2, 3, 1),
    'text': text,
    'timesteps': t,
    'mask': mask,
    'velocity': out.permute(0, 2, 3, 1),
  }


def main():
  pipe = pipelines.make(0)
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
    'made_by': 'tests/tools/parity/goldens_sana.py',
    'with': f'diffusers {diffusers.__version__}, transformers '
    f'{transformers.__version__}, torch {torch.__version__}',
    'prompts': json.dumps(PROMPTS),
    'negative_prompt': NEGATIVE,
    'guidance_scale': str(GUIDANCE),
    'size': json.dumps(SIZE),
  }
  save_file(
    {k: x.contiguous().numpy() for k, x in tensors.items()},
    FOLDER / 'golden.safetensors',
    metadata,
  )
  for name, x in tensors.items():
    print(f'{name} {tuple(x.shape)}: {x.float().std():.3f}')
  files = [p for p in FOLDER.rglob('*') if p.is_file()]
  print(f'{FOLDER}: {sum(p.stat().st_size for p in files)} bytes')


if __name__ == '__main__':
  main()
