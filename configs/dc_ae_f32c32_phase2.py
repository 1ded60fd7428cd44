r"""DC-AE f32c32, phase 2: the layers around the latents, at 1024 px.

  sana-jax train --config configs/dc_ae_f32c32_phase2.py --workdir out/phase2 \
    --config.data.path=DIR --config.loss.lpips_weights=DIR

It starts from out/phase1/model (config.init_from). Features of large pictures
differ from those of small ones; the encoder's last stage and the decoder's
first learn them (109 of 312 M parameters), with L1 and LPIPS, and the layers
before them are not differentiated: see docs/autoencoder.md. Predicted, not run:
22.2 TFLOP per image, so 1.3 M images take 2.5 hours on 8 H200 at 40 % of peak.
Expected: rFID at 1024 px from 7.40 to 0.20, as the paper has for f64. Rate and
decay are the paper's; batch and steps are ours.

:runlocal  a tiny one on `shapes`, two steps on a CPU, seconds.
"""

from sana_jax import config as base
from sana_jax import recipes
from sana_jax.models.autoencoders.dc_ae import phases


def get_config(arg=''):
  config = recipes.dc_ae_phase(size_px=1024)
  variant = base.parse_arg(arg, recipes.VARIANTS)
  config.init_from = 'out/phase1/model'
  config.num_steps = 20_000
  config.batch_size = 64
  config.ema_decay = 0.999
  config.optimizer.learning_rate = 1.6e-5
  config.optimizer.weight_decay = 1e-3
  config.optimizer.warmup_steps = 500
  config.optimizer.clip_norm = 1.0
  if variant == 'runlocal':
    recipes.run_autoencoder_locally(config)
  config.trainable = phases.middle(len(config.model.encoder_widths))
  return config
