r"""Recovery of a pruned SANA-1.5: 100 steps on its own data.

  sana-jax prune --from sana15_4800m_1024 --depth 20 --to out/pruned
  sana-jax train --config configs/sana15_recover.py --workdir out/recovered \
    --config.init_from=out/pruned --config.inputs.cache=gs://DATA/1024

The model is that of init_from, of any depth; the fields here are of 20 blocks.
Published (arXiv:2501.18427): 100 steps on one GPU bring the 4.8B, pruned to
1.6B, from a GenEval of 0.571 to 0.672, above that of SANA-1.0 1.6B, 0.664, at
512 px. Ours: a batch of 64 and a constant 2e-5 after 10 steps, the rate of the
released yamls of SANA-1.5. Predicted, not run: 0.04 hours on 1 H200 at 40 % of
their bf16 peak.

:shapes    of the shipped small model, see docs/growing.md.
:runlocal  two steps of a tiny one on `shapes` and a CPU, seconds.
"""

from ml_collections import ConfigDict

from sana_jax import config as base
from sana_jax import recipes


def get_config(arg=''):
  if base.parse_arg(arg, ('shapes', *recipes.VARIANTS)) == 'shapes':
    return _shapes()
  config = recipes.published('sana15_1600m_1024')
  config.num_steps = 100
  config.batch_size = 64
  config.optimizer.update(learning_rate=2e-5, auto_lr='', warmup_steps=10)
  config.checkpoint_every_steps = 50
  config.pictures_every_steps = 50
  config.data.min_score = 22.0
  return recipes.variant(config, arg)


def _shapes():
  config = base.train('sana')
  config.model = ConfigDict({**config.model, **base.SHAPES})
  config.init_from = config.autoencoder = config.text_encoder = 'shapes'
  config.data.update(size_px=128, threads=1)
  config.num_steps = 100
  config.batch_size = 32
  config.ema_decay = 0.0
  config.flow.shift = 2.0
  config.sampling.update(shift=2.0, guidance_scale=3.0)
  config.optimizer.update(
    name='adamw', learning_rate=1e-3, warmup_steps=10, clip_norm=1.0
  )
  config.log_every_steps = 10
  config.checkpoint_every_steps = 100
  config.pictures_every_steps = 0
  return config
