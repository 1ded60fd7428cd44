r"""DC-AE f32c32, phase 3: the decoder's last layers, at 256 px, with a GAN.

  sana-jax train --config configs/dc_ae_f32c32_phase3.py --workdir out/phase3 \
    --config.data.path=DIR --config.loss.lpips_weights=DIR

It starts from out/phase2/model (config.init_from). Only the output layers are
trained with a PatchGAN: 1.2 of 312 M parameters, and the discriminator's 2.8 M.
Latents do not change, nor does the scaling factor, which is read from
out/phase2/model/vae/config.json: see docs/autoencoder.md. Predicted, not run:
1.22 TFLOP per image, so 12.8 M images take 1.4 hours on 8 H200 at 40 % of their
bf16 peak. Expected: the paper's FID of 0.69, where a GAN on all parameters gets
0.82. Rate and momentum of both players are the paper's, with separate gradient
clipping; the clip norm, the weight and start of the GAN, batch and steps are
ours.

:runlocal  a tiny one on `shapes`, two steps on a CPU, seconds.
"""

from sana_jax import config as base
from sana_jax import recipes
from sana_jax.models.autoencoders.dc_ae import phases


def get_config(arg=''):
  config = recipes.dc_ae_phase(size_px=256)
  variant = base.parse_arg(arg, recipes.VARIANTS)
  config.init_from = 'out/phase2/model'
  config.loss.update(gan=0.1, gan_start=1000)
  config.num_steps = 50_000
  config.batch_size = 256
  config.ema_decay = 0.999
  for player in (config.optimizer, config.discriminator):
    player.update(learning_rate=5.4e-5, b1=0.5, b2=0.9, clip_norm=1.0)
  config.trainable = phases.head()
  if variant == 'runlocal':
    recipes.run_autoencoder_locally(config)
    config.loss.gan_start = 1
  return config
