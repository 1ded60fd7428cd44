"""A run whose parameters are in groups: sharded, saved and resumed."""

import jax
import numpy as np
import pytest

GROUPS = 'out/.*:rate_scale=0.1,weight_decay=0.1 .*/bias:clip_norm=0.5'


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_run(toy, tmp_path):
  changes = dict(
    optimizer={
      'name': 'adamw',
      'learning_rate': 1e-2,
      'clip_norm': 1.0,
      'groups': GROUPS,
    }
  )
  whole = toy.run(tmp_path / 'whole', num_steps=8, **changes)
  resumed = toy.resume(
    tmp_path / 'whole', tmp_path / 'cut', 4, num_steps=8, **changes
  )
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
