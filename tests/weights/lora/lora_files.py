"""A small transformer with random adapters, and files of them."""

import numpy as np
from safetensors import numpy as safetensors

from sana_jax.models.sana import Sana
from sana_jax.weights.lora import names, reading
from sana_jax.weights.lora.lows import Low

MODEL = Sana(
  width=24,
  depth=2,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  out_channels=3,
  caption_channels=10,
)
SHAPES = {
  layer.key.format(i=i): reading.weight_shape(layer)
  for layer in names.layers(MODEL).values()
  for i in range(layer.depth or 1)
}
QKV = [f'transformer_blocks.1.attn1.to_{x}' for x in 'qkv']
POINT = 'transformer_blocks.0.ff.conv_point'
SOME = [*QKV, POINT, 'proj_out']


def normal(*shape):
  return np.float32(np.random.default_rng().normal(size=shape))


def random(keys=SOME, rank=2, scale=1.0, dora=False):
  """Updates of these layers, in the layout of diffusers."""
  out = {}
  for key in keys:
    shape = SHAPES[key]
    ends = (1,) * (len(shape) - 2)
    magnitude = np.abs(normal(shape[0])) + 0.5 if dora else None
    out[key] = Low(
      normal(rank, *shape[1:]), normal(shape[0], rank, *ends), scale, magnitude
    )
  return out


def save(path, tensors, metadata=None):
  tensors = {k: np.ascontiguousarray(x) for k, x in tensors.items()}
  safetensors.save_file(tensors, path, metadata)
  return path


def spelled(updates, name, down, up):
  """Tensors of a file, from functions of names and endings."""
  out = {}
  for key, low in updates.items():
    out[name(key) + down] = low.down
    out[name(key) + up] = low.up
  return out


def delta(low):
  """The update of a weight (out, in) in float64."""
  flat = lambda x: np.float64(x.reshape(x.shape[0], -1))
  return low.scale * flat(low.up) @ flat(low.down)


def assert_same(got, want):
  assert set(got) == set(want)
  for key, low in want.items():
    np.testing.assert_allclose(
      delta(got[key]), delta(low), rtol=1e-5, atol=1e-6, err_msg=key
    )
    if low.magnitude is None:
      assert got[key].magnitude is None
    else:
      np.testing.assert_array_equal(got[key].magnitude, low.magnitude)
