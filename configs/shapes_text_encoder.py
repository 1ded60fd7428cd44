r"""The text encoder of the small SANA: a Gemma-2 of 4 layers and width 128.

  sana-jax train --config configs/shapes_text_encoder.py \
    --workdir out/small/text_encoder

It learns to predict the next and the previous tokens of captions after the
complex human instruction; its last hidden states condition SANA. 0.68 M
parameters. Measured (2026-11-21, 2 cores of an AMD EPYC virtual machine): under
3 minutes; see docs/small_model.md.

:quick  fewer steps, for launch/quickstart.
"""

from sana_jax import config as base


def get_config(arg=''):
  config = base.train('text_encoder')
  quick = base.parse_arg(arg) == 'quick'
  config.model.update(
    width=128,
    depth=4,
    heads=4,
    kv_heads=2,
    head_dim=32,
    hidden=256,
    query_scale=32,
  )
  config.text.length = 320 if quick else 384
  config.text.look_back = 1.0 if quick else 0.125
  config.num_steps = 600 if quick else 250
  config.batch_size = 4 if quick else 8
  config.ema_decay = 0.0
  config.optimizer.learning_rate = 3e-3
  config.optimizer.b2 = 0.99
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 20
  config.optimizer.clip_norm = 1.0
  config.log_every_steps = 10
  config.pictures_every_steps = 0
  return config
