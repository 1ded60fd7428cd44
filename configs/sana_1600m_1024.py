"""The published 1.6B at 1024 px, on cached latents and text.

  sana-jax plan --config sana_1600m_1024 --topology v5e:16x16 --out out/plan

Compiled for many pods, never run at this size: see docs/planning.md.
"""

from sana_jax import config as base


def get_config(arg=''):
  base.parse_arg(arg, ())
  config = base.train('sana')
  config.model.update(base.SANA_SIZES['sana_1600m_1024'], remat='full')
  config.dtype = 'bfloat16'
  config.batch_size = 1024
  config.num_steps = 200_000
  config.ema_decay = 0.9999
  config.optimizer.name = 'came'
  config.optimizer.warmup_steps = 2000
  config.data.size_px = 1024
  return config
