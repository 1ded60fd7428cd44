r"""SANA 1.6B at 4096 px, from the 2048 px stage.

  sana-jax train --config configs/sana_1600m_4k.py \
    --workdir gs://RUNS/1600m_4k --layout sequence \
    --config.inputs.cache=gs://DATA/4096 \
    --config.init_from=out/1600m_2k/model

Without --config.init_from it starts from the published 2K weights. The position
embedding is stretched twofold and the flow shift is 6, as in the released yaml
(4096ms/Sana_1600M_img4096_bf16). Predicted, not run: 1.9 hours on 64 H200 at
40 % of their bf16 peak. Expected: the published 4K model's sharpness; no score
was published. Images have 3072 px or more on the shorter side.

:runlocal  two steps of a tiny one on `shapes` and a CPU, seconds.
"""

from sana_jax import recipes


def get_config(arg=''):
  config = recipes.published('sana_1600m_4k')
  config.init_from = 'sana_1600m_2k_bf16'
  config.num_steps = 5000
  config.batch_size = 256
  config.flow.shift = 6.0
  config.sampling.shift = 6.0
  config.data.min_size_px = 3072
  return recipes.variant(config, arg)
