"""Files of small random adapters, for tests."""

import pathlib

import numpy as np

from sana_jax.weights.lora import names, reading, writing
from sana_jax.weights.lora.lows import Low


def write(path, module, keys=('transformer_blocks.0.attn2.to_q',), **more):
  """Writes an adapter of rank 2 for some layers of a transformer.

  Args:
    more: `seed`; `size` of the updates; `dora` for magnitudes.
  """
  rng = np.random.default_rng(more.get('seed', 0))
  draw = lambda *shape: np.float32(rng.normal(size=shape))
  shapes = {
    layer.key.format(i=i): reading.weight_shape(layer)
    for layer in names.layers(module).values()
    for i in range(layer.depth or 1)
  }
  updates = {}
  for key in keys:
    out, inputs = shapes[key]
    low = Low(draw(2, inputs), more.get('size', 0.5) * draw(out, 2), 1.0)
    if more.get('dora'):
      low = low._replace(magnitude=1 + np.abs(draw(out)))
    updates[key] = low
  writing.write_file(path, updates)
  return pathlib.Path(path)
