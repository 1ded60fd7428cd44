"""Writes tests/golden/tiny_sprint/ with diffusers.

  python tests/tools/parity/goldens_sprint.py

The transformer, the scheduler and the index of a small SANA-Sprint with random
weights; its other parts are those of tests/golden/tiny_sana. golden.safetensors
has the latents that diffusers makes with the noise of sana_jax's seeds, and
pictures of them.
"""

import json
import pathlib
import shutil
import tempfile

import diffusers
import numpy as np
from safetensors.numpy import save_file
import torch

from sana_jax.inference import randomness
from sana_jax.tools.parity import pipelines, sprint
from sana_jax.tools.parity.pipelines import PROMPTS

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden'
FOLDER = GOLDEN / 'tiny_sprint'
OWN = ('model_index.json', 'scheduler', 'transformer')
SEED, IMAGES, SIZE, GUIDANCE = 3, 2, (32, 64), 4.5


def sprint_of(folder):
  """SanaSprintPipeline with a new transformer, and the parts of a SANA."""
  sana = diffusers.SanaPipeline.from_pretrained(folder)
  torch.manual_seed(0)
  transformer = diffusers.SanaTransformer2DModel(
    **pipelines.TRANSFORMER, guidance_embeds=True
  )
  parts = sana.components | dict(
    transformer=pipelines.randomise(transformer),
    scheduler=diffusers.SCMScheduler(),
  )
  pipe = diffusers.SanaSprintPipeline(**parts)
  pipe.set_progress_bar_config(disable=True)
  return pipe


@torch.no_grad()
def sample(pipe, steps):
  """diffusers' final latents [b y x c] and images [b y x 3] in [0, 1]."""
  seeds, numbers = np.full(IMAGES, SEED), np.arange(IMAGES)
  shape = *(side // 4 for side in SIZE), 4
  noise = np.array(randomness.draw_noise(seeds, numbers, shape))
  with sprint.steps_noise(randomness.draw_keys(seeds, numbers)):
    latents = pipe(
      PROMPTS[0],
      latents=torch.from_numpy(noise.transpose(0, 3, 1, 2).copy()),
      height=SIZE[0],
      width=SIZE[1],
      num_images_per_prompt=IMAGES,
      num_inference_steps=steps,
      intermediate_timesteps=1.3 if steps == 2 else None,
      guidance_scale=GUIDANCE,
      use_resolution_binning=False,
      output_type='latent',
    ).images
  images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
  images = (images * 0.5 + 0.5).clamp(0, 1)
  return latents.permute(0, 2, 3, 1), images.permute(0, 2, 3, 1)


def main():
  pipe = sprint_of(GOLDEN / 'tiny_sana')
  shutil.rmtree(FOLDER, ignore_errors=True)
  FOLDER.mkdir()
  with tempfile.TemporaryDirectory() as whole:
    pipe.save_pretrained(whole)
    for name in OWN:
      shutil.move(pathlib.Path(whole) / name, FOLDER / name)
  tensors = {}
  for steps in (1, 2, 4):
    latents, images = sample(pipe, steps)
    tensors[f'{steps}.latents'] = latents
    if steps == 2:
      tensors[f'{steps}.images'] = images
  metadata = {
    'made_by': 'tests/tools/parity/goldens_sprint.py',
    'with': f'diffusers {diffusers.__version__}, torch {torch.__version__}',
    'prompt': PROMPTS[0],
    'seed': str(SEED),
    'guidance_scale': str(GUIDANCE),
    'size': json.dumps(SIZE),
  }
  save_file(
    {k: x.contiguous().numpy() for k, x in tensors.items()},
    FOLDER / 'golden.safetensors',
    metadata,
  )


if __name__ == '__main__':
  main()
