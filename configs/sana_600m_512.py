r"""SANA 0.6B at 512 px, from scratch: the first stage.

  sana-jax data cache --config configs/sana_600m_512.py --out gs://DATA/512 \
    --config.data.path='gs://DATA/*.tar'
  sana-jax train --config configs/sana_600m_512.py \
    --workdir gs://RUNS/600m_512 --layout fsdp \
    --config.inputs.cache=gs://DATA/512

Predicted, not run: 2.2 hours on 64 H200 at 40 % of their bf16 peak. Expected:
GenEval of about 0.64, as published for a 512 px model. Everything but steps and
batch is the released yaml's (512ms/Sana_600M_img512, with bf16 for fp16).

:runlocal  two steps of a tiny one on `shapes` and a CPU, seconds.
"""

from sana_jax import recipes


def get_config(arg=''):
  config = recipes.published('sana_600m_512')
  config.num_steps = 200_000
  return recipes.variant(config, arg)
