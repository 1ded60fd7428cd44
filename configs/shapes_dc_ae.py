r"""The autoencoder of the small SANA: 128 px images to 4 x 4 x 16 latents.

  sana-jax train --config configs/shapes_dc_ae.py --workdir out/small/dc_ae

Compression 32 and 1.94 M parameters; the deepest stage is an EfficientViT
block, as in the published models. Measured (2026-11-21, one core of an AMD EPYC
virtual machine): 24 minutes, PSNR 34.6 dB; see docs/small_model.md.

:quick  64 px, compression 16, a few minutes, for launch/quickstart.
"""

from sana_jax import config as base


def get_config(arg=''):
  config = base.train('dc_ae')
  quick = base.parse_arg(arg) == 'quick'
  config.data.size_px = 64 if quick else 128
  config.model = base.dc_ae_fields(
    latent_channels=16,
    widths=(32, 32, 64, 128, 128) if quick else (16, 16, 32, 64, 128, 128),
    depths=(0, 1, 1, 1, 1) if quick else (0, 1, 1, 1, 1, 1),
    attention_stages=1,
  )
  config.num_steps = 600 if quick else 2200
  config.batch_size = 16
  config.ema_decay = 0.99 if quick else 0.998
  config.optimizer.name = 'muon'
  config.optimizer.learning_rate = 2e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 50
  config.optimizer.clip_norm = 1.0
  config.log_every_steps = 20
  config.checkpoint_every_steps = 500
  config.pictures_every_steps = 500
  return config
