r"""A SANA-Sprint of the shipped small SANA: one to four steps.

  sana-jax train --config configs/shapes_sprint.py --workdir out/sprint

Continuous consistency distillation (sCM) with flat weights, from the shipped
model with dense time, without a discriminator, which had no measurable gain at
this size; docs/sprint.md has the scores. `guidance_embeds_scale` is 10: with
the published 0.1 the scale has no effect.
"""

from ml_collections import ConfigDict

from sana_jax import config as base


def get_config(arg=''):
  base.parse_arg(arg)
  config = base.train('sprint')
  config.data.size_px = 128
  config.data.threads = 1
  config.model = ConfigDict({**config.model, **base.SHAPES, 'unroll': 6})
  config.model.guidance_embeds_scale = 10.0
  config.init_from = config.autoencoder = config.text_encoder = 'shapes'
  config.num_steps = 1000
  config.batch_size = 32
  config.ema_decay = 0.99
  config.sprint.update(
    guidance_scales=(2.0, 3.0, 4.0), tangent_warmup_steps=200
  )
  config.sprint.max_tangent_ratio = 0.7  # At most 0.62 in sound runs.
  config.ladd.blocks = (1, 2, 4, 5)
  config.sampling.update(sampler='scm', steps=2, guidance_scale=3.0)
  for group in config.optimizer, config.discriminator:
    group.update(
      name='adamw',
      learning_rate=2e-4,  # At 3e-4, one of three seeds collapsed.
      b2=0.99,
      weight_decay=0.01,
      schedule='warmup_stable_decay',
      warmup_steps=20,
      clip_norm=1.0,
    )
  # Its dense layers follow many features, so that small steps change much.
  config.optimizer.groups = 'time_embed/timestep/.*:rate_scale=0.1,clip_norm=1'
  config.log_every_steps = 20
  config.checkpoint_every_steps = 500
  config.pictures_every_steps = 500
  return config
