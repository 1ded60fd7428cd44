r"""Diffusion-DPO of the shipped small SANA, on pairs of its own pictures.

  sana-jax train --config configs/shapes_dpo.py --workdir out/dpo \
    --config.data.path=out/preference/pairs

The folder has lines of metadata.jsonl like
{"chosen": "a.png", "rejected": "b.png", "prompt": "a red circle"};
docs/preference.md has what was measured. Two minutes of one core.
"""

from sana_jax import config as base
from sana_jax import recipes


def get_config(arg=''):
  base.parse_arg(arg)
  config = recipes.preference_of_shapes('dpo')
  config.data.update(source='pairs', path='pairs')
  config.dpo.beta = 50.0
  config.optimizer.learning_rate = 1e-3
  config.num_steps = 100
  config.batch_size = 8
  return config
