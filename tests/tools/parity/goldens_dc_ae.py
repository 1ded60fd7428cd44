"""Writes tests/golden/dc_ae.safetensors with diffusers' AutoencoderDC.

  python tests/tools/parity/goldens_dc_ae.py

A tiny model with strided convolutions, nearest upsampling, both norms and
attention at two scales, and what it computes for images so large that its
attention is linear and so small that it is quadratic.
"""

import json
import pathlib

import diffusers
from safetensors.numpy import save_file
import torch

PATH = pathlib.Path(__file__).parents[2] / 'golden' / 'dc_ae.safetensors'
CONFIG = dict(
  latent_channels=4,
  attention_head_dim=8,
  encoder_block_types=['ResBlock', 'ResBlock', 'EfficientViTBlock'],
  decoder_block_types=['ResBlock', 'ResBlock', 'EfficientViTBlock'],
  encoder_block_out_channels=[8, 8, 16],
  decoder_block_out_channels=[8, 16, 16],
  encoder_layers_per_block=[1, 1, 1],
  decoder_layers_per_block=[1, 1, 2],
  encoder_qkv_multiscales=[[], [], [5]],
  decoder_qkv_multiscales=[[], [], [5]],
  downsample_block_type='Conv',
  upsample_block_type='interpolate',
  decoder_norm_types=['batch_norm', 'rms_norm', 'rms_norm'],
  decoder_act_fns=['relu', 'silu', 'silu'],
  scaling_factor=0.5,
)
SIZES = {'linear': (1, 3, 24, 16), 'quadratic': (2, 3, 8, 8)}


def randomise(model: torch.nn.Module, seed: int):
  """Gives norms and their statistics values that matter, in evaluation mode."""
  torch.manual_seed(seed)
  for name, module in model.named_modules():
    if 'norm' not in name.rpartition('.')[2]:
      continue
    module.weight.data.uniform_(0.5, 1.5)
    module.bias.data.normal_(std=0.2)
    if isinstance(module, torch.nn.BatchNorm2d):
      module.running_mean.normal_(std=0.2)
      module.running_var.uniform_(0.05, 0.5)
      module.num_batches_tracked.fill_(seed + 1)
  return model.eval()


@torch.no_grad()
def compute(model: diffusers.AutoencoderDC, images: torch.Tensor):
  """Latents and the decoded image, [b c y x]."""
  latents = model.encode(images).latent
  return latents, model.decode(latents).sample


def main():
  torch.manual_seed(0)
  model = randomise(diffusers.AutoencoderDC(**CONFIG), 0)
  tensors = {f'weights.{k}': x for k, x in model.state_dict().items()}
  for name, size in SIZES.items():
    images = torch.rand(size) * 2 - 1
    latents, decoded = compute(model, images)
    tensors |= {
      f'{name}.{key}': x.permute(0, 2, 3, 1)
      for key, x in (
        ('images', images),
        ('latents', latents),
        ('decoded', decoded),
      )
    }
  metadata = {
    'made_by': 'tests/tools/parity/goldens_dc_ae.py',
    'with': f'diffusers {diffusers.__version__}, torch {torch.__version__}',
    'config': json.dumps(CONFIG),
  }
  tensors = {k: x.contiguous().numpy() for k, x in tensors.items()}
  save_file(tensors, PATH, metadata)
  print(f'{PATH}: {PATH.stat().st_size} bytes')


if __name__ == '__main__':
  main()
