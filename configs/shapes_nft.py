r"""DiffusionNFT of the shipped small SANA, with its exact detector as reward.

  sana-jax train --config configs/shapes_nft.py --workdir out/nft

In rounds of 128 pictures of captions of `shapes`, which the model draws itself;
docs/preference.md has what was measured with a weakened model. Two minutes of
one core.
"""

from sana_jax import config as base
from sana_jax import recipes


def get_config(arg=''):
  base.parse_arg(arg)
  config = recipes.preference_of_shapes('nft')
  config.data.examples = 1000
  config.nft.update(
    reward='shapes',
    prompts_per_round=16,
    images_per_prompt=8,
    round_steps=8,
    clip=1.0,
    old_decay=0.0,
  )
  config.optimizer.learning_rate = 2e-3
  config.num_steps = 96
  config.batch_size = 32
  return config
