r"""The small SANA shipped with this repository, trained on `shapes` at 128 px.

  sana-jax train --config configs/shapes.py --workdir out/small/sana \
    --config.autoencoder=out/small/dc_ae/model \
    --config.text_encoder=out/small/text_encoder/model

The published architecture at 1.76 M parameters (width 128, 6 blocks). One
initial value differs: the caption norm starts at 1 and not at 0.01. Measured
(2026-12-01, one core of an Intel Xeon virtual machine): 55 minutes of CPU time;
see docs/small_model.md for the scores.

:quick  64 px, width 96, 4 blocks, a few minutes, for launch/quickstart.
"""

from sana_jax import config as base


def get_config(arg=''):
  config = base.train('sana')
  quick = base.parse_arg(arg) == 'quick'
  config.data.size_px = 64 if quick else 128
  config.data.threads = 1  # A cache of 100 MB is nearly as good as memory.
  config.model.update(
    width=96 if quick else 128,
    depth=4 if quick else 6,
    cross_heads=3 if quick else 4,
    sample_size=4,
    text_norm_scale=1.0,
    unroll=4 if quick else 6,
  )
  config.num_steps = 7000 if quick else 13_000
  config.batch_size = 32
  config.ema_decay = 0.99 if quick else 0.999
  config.flow.shift = 2.0
  config.sampling.shift = 2.0
  config.sampling.guidance_scale = 3.0
  config.dtype = 'float32' if quick else 'bfloat16'
  config.optimizer.name = 'adamw' if quick else 'came_8bit'
  config.optimizer.learning_rate = 3e-3 if quick else 4e-4
  config.optimizer.b2 = 0.99
  config.optimizer.weight_decay = 0.01
  config.optimizer.schedule = 'warmup_stable_decay'
  config.optimizer.warmup_steps = 100
  config.optimizer.clip_norm = 1.0
  config.log_every_steps = 50
  config.checkpoint_every_steps = 1000
  config.pictures_every_steps = 1500 if quick else 500
  return config
