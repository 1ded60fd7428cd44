"""docs/nnx.md runs, and both kinds of module give the same values."""

import pathlib
import re

from flax import nnx
import jax
import numpy as np
import pytest

pytestmark = pytest.mark.docs

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'nnx.md'


def test_sana_runs_trains_and_is_saved_through_the_bridge(
  tmp_path,
  monkeypatch,
):
  monkeypatch.chdir(tmp_path)
  names = {}
  for block in re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL):
    exec(compile(block, str(PAGE), 'exec'), names)
  inputs = [names[x] for x in ('latents', 'timesteps', 'text', 'mask')]
  first, _, last = map(float, names['losses'])
  assert last < first
  # The trained weights: by Linen, and by NNX after a file.
  np.testing.assert_allclose(
    names['velocity'], names['model'](*inputs), rtol=1e-6, atol=1e-6
  )
  linen = jax.tree.map(
    lambda x: x.shape, names['module'].init(jax.random.key(0), *inputs)
  )
  state = nnx.to_pure_dict(nnx.state(names['model'], nnx.Param))
  assert jax.tree.map(lambda x: x.shape, {'params': state}) == linen
