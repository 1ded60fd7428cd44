r"""DiffusionNFT of the shipped small SANA, with its exact detector as reward.

  sana-jax train --config configs/shapes_nft.py --workdir out/nft \
    --config.init_from=out/weak/model

A LoRA of rank 16 on the attentions and the feed-forwards, on captions of
`shapes` that the model draws itself; docs/preference.md has what was measured.
"""

from ml_collections import ConfigDict

from sana_jax import config as base
from sana_jax.configs.shapes_sprint import SHAPES


def get_config(arg=''):
  base.parse_arg(arg)
  config = base.train('nft')
  tune(config)
  config.data.examples = 1000
  config.nft.update(
    reward='shapes',
    prompts_per_round=16,
    images_per_prompt=8,
    round_steps=8,
    clip=1.0,
    old_decay=0.0,
  )
  config.optimizer.learning_rate = 2e-3
  config.num_steps = 96
  return config


def tune(config):
  """The values of both ways to tune a small model by preferences."""
  config.init_from = config.autoencoder = config.text_encoder = 'shapes'
  config.model = ConfigDict({**config.model, **SHAPES})
  config.data.update(size_px=128, threads=0)
  config.lora.targets = 'to_q to_k to_v to_out.0 ff.conv_inverted ff.conv_point'
  config.flow.shift = config.sampling.shift = 2.0
  config.sampling.guidance_scale = 3.0
  config.batch_size = 32
  config.ema_decay = 0.0
  config.optimizer.update(
    name='adamw', learning_rate=1e-3, weight_decay=0.0, clip_norm=1.0
  )
  config.log_every_steps = 8
  config.checkpoint_every_steps = 24
  config.pictures_every_steps = 0
