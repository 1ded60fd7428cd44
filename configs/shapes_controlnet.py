r"""A ControlNet of the shipped small SANA: silhouettes on free positions.

  sana-jax train --config configs/shapes_controlnet.py --workdir out/control

Three copied blocks in diffusers' wiring, control images exact from the scenes.
Measured: 7 minutes of CPU time; docs/controlnet.md has the scores.
"""

from ml_collections import ConfigDict

from sana_jax import config as base


def get_config(arg=''):
  base.parse_arg(arg)
  config = base.train('controlnet')
  config.data.update(size_px=128, threads=1, split='train_free', examples=5_000)
  config.model = ConfigDict({**config.model, **base.SHAPES, 'unroll': 6})
  config.init_from = config.autoencoder = config.text_encoder = 'shapes'
  config.controlnet.update(depth=3, annotator='masks')
  config.num_steps = 1100
  config.batch_size = 32
  config.ema_decay = 0.99
  config.flow.shift = 2.0
  config.sampling.update(guidance_scale=3.0, shift=2.0, images=48)
  config.optimizer.update(
    name='adamw',
    learning_rate=1e-3,
    b2=0.99,
    weight_decay=0.01,
    schedule='warmup_stable_decay',
    warmup_steps=50,
    clip_norm=1.0,
  )
  config.log_every_steps = 50
  config.checkpoint_every_steps = 500
  config.pictures_every_steps = 500
  return config
