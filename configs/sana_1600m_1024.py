r"""SANA 1.6B at 1024 px, from the 512 px stage.

  sana-jax train --config configs/sana_1600m_1024.py \
    --workdir gs://RUNS/1600m_1024 --layout fsdp \
    --config.inputs.cache=gs://DATA/1024 \
    --config.init_from=out/1600m_512/model

Without --config.init_from it starts from the published 512 px weights. The
cache is made as in sana_1600m_512.py. Predicted, not run: 5.0 hours on 64 H200
at 40 % of their bf16 peak. Expected: GenEval of 0.66, as published. Everything
but steps and batch is the released yaml's (1024ms/Sana_1600M_img1024).

:runlocal  two steps of a tiny one on `shapes` and a CPU, seconds.
"""

from sana_jax import recipes


def get_config(arg=''):
  config = recipes.published('sana_1600m_1024')
  config.init_from = 'sana_1600m_512'
  config.num_steps = 50_000
  return recipes.variant(config, arg)
