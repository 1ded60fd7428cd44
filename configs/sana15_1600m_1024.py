r"""SANA-1.5 1.6B at 1024 px, with QK-norm, from scratch.

  sana-jax train --config configs/sana15_1600m_1024.py \
    --workdir gs://RUNS/sana15_1600m --layout fsdp \
    --config.inputs.cache=gs://DATA/1024

Queries and keys are normalised in both attentions. Predicted, not run: 20 hours
on 64 H200 at 40 % of their bf16 peak. Expected: GenEval of 0.66, and 0.69 after
SFT, as published (arXiv:2501.18427: more than 200,000 steps at 1e-4). To
continue from published weights: --config.init_from=sana15_1600m_1024 and, as in
the released yaml, --config.optimizer.learning_rate=2e-5.

:runlocal  two steps of a tiny one on `shapes` and a CPU, seconds.
"""

from sana_jax import recipes


def get_config(arg=''):
  config = recipes.published('sana15_1600m_1024')
  config.num_steps = 200_000
  config.optimizer.auto_lr = ''
  config.data.min_score = 22.0
  return recipes.variant(config, arg)
