r"""SANA-1.5 4.8B, grown from the 1.6B: 20 blocks become 60.

  sana-jax train --config configs/sana15_4800m_grow.py \
    --workdir gs://RUNS/sana15_grow --layout fsdp \
    --config.inputs.cache=gs://DATA/1024

Partial preservation (arXiv:2501.18427, section 2.1): the last 2 trained blocks
are left out, and 42 new ones are identities at first. --config.init_from is any
model of 20 blocks with QK-norm. 100,000 steps at 1e-4, as in the paper, which
reports 60 % fewer of them than from scratch. Predicted, not run: 30 hours on 64
H200 at 40 % of their bf16 peak. Expected: GenEval of 0.69, as published. The
program of a step is that of sana15_4800m_1024.

:runlocal  two steps of a tiny one, grown from the shipped model, seconds.
"""

from sana_jax import recipes


def get_config(arg=''):
  config = recipes.published('sana15_4800m_1024')
  config.init_from = 'sana15_1600m_1024'
  config.grow.update(strategy='constant', drop=2)
  config.num_steps = 100_000
  config.optimizer.update(name='came_8bit', auto_lr='')
  config.data.min_score = 22.0
  return recipes.variant(config, arg)
