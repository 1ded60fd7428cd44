r"""SANA 1.6B at 2048 px, from the 1024 px stage.

  sana-jax train --config configs/sana_1600m_2k.py \
    --workdir gs://RUNS/1600m_2k --layout sequence \
    --config.inputs.cache=gs://DATA/2048 \
    --config.init_from=out/1600m_1024/model

Without --config.init_from it starts from the published 1024 px weights. A sine
and cosine position embedding is added, which has no parameters. Predicted, not
run: 1.0 hours on 64 H200 at 40 % of their bf16 peak. Expected: the published
2K model's sharpness; no score was published. Images have 1536 px or more on the
shorter side.

:runlocal  two steps of a tiny one on `shapes` and a CPU, seconds.
"""

from sana_jax import recipes


def get_config(arg=''):
  config = recipes.published('sana_1600m_2k')
  config.init_from = 'sana_1600m_1024'
  config.num_steps = 10_000
  config.batch_size = 256
  config.data.min_size_px = 1536
  return recipes.variant(config, arg)
