r"""DC-AE f32c32, phase 1: everything trainable, at 256 px, with L1 and LPIPS.

  sana-jax train --config configs/dc_ae_f32c32_phase1.py --workdir out/phase1 \
    --config.data.path=DIR --config.loss.lpips_weights=DIR

SANA's own autoencoder, 312 M parameters; phases 2 and 3 start from its model,
see docs/autoencoder.md. Predicted, not run: 2.56 TFLOP per image, so 51 M
images take 11.5 hours on 8 H200 at 40 % of their bf16 peak. Expected: the
paper's FID of 3.82 without a GAN, 0.69 after phase 3. Rate, decay and momentum
are the paper's; batch, steps and the weight of LPIPS, which it omits, are ours.

:runlocal  a tiny one on `shapes`, two steps on a CPU, seconds.
"""

from sana_jax import config as base
from sana_jax import recipes


def get_config(arg=''):
  config = recipes.dc_ae_phase(size_px=256)
  variant = base.parse_arg(arg, recipes.VARIANTS)
  config.num_steps = 200_000
  config.batch_size = 256
  config.ema_decay = 0.9999
  config.optimizer.learning_rate = 6.4e-5
  config.optimizer.weight_decay = 0.1
  config.optimizer.warmup_steps = 1000
  config.optimizer.clip_norm = 1.0
  config.checkpoint_every_steps = 5000
  config.pictures_every_steps = 5000
  if variant == 'runlocal':
    recipes.run_autoencoder_locally(config)
  return config
