"""Several adapters with weights, as one; and merged into weights of files."""

import jax
import jax.numpy as jnp
from lora_files import delta, MODEL, normal, POINT, QKV, random, SHAPES
import numpy as np
import pytest

from sana_jax.models import abstract, lora
from sana_jax.tree import leaves
from sana_jax.weights.lora import combining, fusing, names
from sana_jax.weights.lora.combining import weight_of, Weighted
from sana_jax.weights.tensors import stored

PATCH = 'patch_embed.proj'
KEYS = [*QKV, POINT, 'proj_out', PATCH]


def params():
  return jax.tree.map(lambda s: normal(*s.shape), abstract.transformer(MODEL))


def weights(tree):
  """Weights of all layers as matrices (out, in), by name in diffusers."""
  flat, out = leaves(tree), {}
  for path, layer in names.layers(MODEL).items():
    kernel = np.asarray(flat[f'{path}/kernel'])
    for i in range(layer.depth or 1):
      one = kernel if layer.depth is None else kernel[i]
      x = layer.transform.save(one)
      out[layer.key.format(i=i)] = np.float64(x.reshape(len(x), -1))
  return out


def merged(base, adapters):
  found = combining.collection(MODEL, base, adapters)
  return weights(lora.merged(base, found))


def assert_close(got, want):
  for key in want:
    np.testing.assert_allclose(
      got[key], want[key], rtol=1e-4, atol=1e-4, err_msg=key
    )


@pytest.mark.long
def test_weighted_adapters_add_up():
  base = params()
  a = random(KEYS, rank=2, scale=0.5)
  b = random([*QKV, 'transformer_blocks.0.attn1.to_q'], rank=3)
  got = merged(base, [Weighted(a, 0.7), Weighted(b, -1.2)])
  want = weights(base)
  for updates, weight in ((a, 0.7), (b, -1.2)):
    for key, low in updates.items():
      want[key] = want[key] + weight * delta(low)
  assert_close(got, want)


@pytest.mark.long
def test_a_dora_multiplies_what_is_before_it():
  base, first = params(), random(KEYS)
  second = random(KEYS[:3], dora=True)
  got = merged(base, [Weighted(first, 0.5), Weighted(second)])
  want, plain = weights(base), weights(base)
  for key, low in first.items():
    want[key] = want[key] + 0.5 * delta(low)
  for key, low in second.items():
    norm = np.linalg.norm(plain[key] + delta(low), axis=1)
    gain = (low.magnitude / norm)[:, None]
    want[key] = gain * (want[key] + delta(low))
  assert_close(got, want)


@pytest.mark.parametrize('dora', [False, True])
def test_an_adapter_of_weight_zero_is_off(dora):
  base = params()
  off = [Weighted(random(dora=dora), 0.0)]
  assert combining.collection(MODEL, base, off) == {}
  some = Weighted(
    random(dora=dora), {'transformer_blocks': 0.0, 'proj_out': 0.0}
  )
  assert combining.collection(MODEL, base, [some]) == {}


def test_the_longest_name_gives_the_weight():
  weight = {'transformer_blocks.1': 0.5, 'transformer_blocks.1.attn1': 2}
  assert weight_of(weight, 'transformer_blocks.1.attn1.to_q') == 2
  assert weight_of(weight, 'transformer_blocks.1.ff.conv_point') == 0.5
  # A name ends at a dot: 10 is not of block 1.
  assert weight_of(weight, 'transformer_blocks.10.attn1.to_q') == 1
  assert weight_of(3, 'proj_out') == 3


@pytest.mark.long
@pytest.mark.parametrize('dora', [False, True])
def test_merged_files_equal_the_model_with_adapters(dora):
  base = params()
  adapters = [
    Weighted(random(KEYS, dora=dora), 0.8),
    Weighted(random(KEYS[:4], rank=3, dora=dora), {POINT: 0.5}),
  ]
  tensors = {
    f'{key}.weight': stored(np.float32(x).reshape(SHAPES[key]))
    for key, x in weights(base).items()
  } | {'norm.weight': stored(normal(3))}
  got = fusing.fused(tensors, adapters)
  assert got['norm.weight'] is tensors['norm.weight']
  rows = {
    key: got[f'{key}.weight'].read().reshape(SHAPES[key][0], -1)
    for key in SHAPES
  }
  assert_close(rows, merged(base, adapters))
  key = 'proj_out.weight'  # Rows are independent of each other.
  np.testing.assert_allclose(got[key].fetch(1, 3), got[key].read()[1:3])


def test_adapters_get_the_dtype_of_the_parameters():
  like = jnp.ones(3, jnp.bfloat16)
  found = combining.collection(MODEL, params(), [Weighted(random())])
  placed = combining.placed(found, like)
  assert {x.dtype for x in jax.tree.leaves(placed)} == {jnp.dtype('bfloat16')}
