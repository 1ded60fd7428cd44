"""The published 1.6B at 1024 px, on cached latents and text.

  sana-jax plan --config sana_1600m_1024 --topology v5e:16x16 --out out/plan
  sana-jax train --config configs/sana_1600m_1024.py --workdir out/run \\
    --layout out/plan/layouts/fsdp_64.py

Compiled for pods, never run at this size: see docs/planning.md.

:quick  three blocks of width 128.
"""

from sana_jax import config as base


def get_config(arg=''):
  quick = base.parse_arg(arg) == 'quick'
  config = base.train('sana')
  config.model.update(base.SANA_SIZES['sana_1600m_1024'], remat='full')
  if quick:
    config.model.update(width=128, depth=3, cross_heads=4)
  config.dtype = 'bfloat16'
  config.batch_size = 32 if quick else 1024
  config.num_steps = 100 if quick else 200_000
  config.ema_decay = 0.9999
  config.optimizer.name = 'came'
  config.optimizer.warmup_steps = 10 if quick else 2000
  config.data.size_px = 1024
  return config
