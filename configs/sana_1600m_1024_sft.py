r"""SANA 1.6B at 1024 px, fine-tuned on a few good images (SFT).

  sana-jax train --config configs/sana_1600m_1024_sft.py --workdir out/sft \
    --layout fsdp --config.data.path='data/good/*.tar' \
    --config.init_from=out/1600m_1024/model

As SANA-1.5 does it (arXiv:2501.18427, section 4): 10,000 steps at a rate of
2e-5 on some millions of images with a CLIP score above 25. Without
--config.init_from it starts from the published weights. Predicted, not run: 1.0
hours on 64 H200 at 40 % of their bf16 peak. Expected: GenEval from 0.66 to
0.69, as published for SANA-1.5's 1.6B.

:runlocal  two steps of a tiny one on `shapes` and a CPU, seconds.
"""

from sana_jax import recipes


def get_config(arg=''):
  config = recipes.published('sana_1600m_1024')
  config.init_from = 'sana_1600m_1024'
  config.num_steps = 10_000
  config.optimizer.update(learning_rate=2e-5, auto_lr='')
  config.data.min_score = 25.0
  return recipes.variant(config, arg)
