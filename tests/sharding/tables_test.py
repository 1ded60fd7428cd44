"""Each model's table names every parameter once, and the layout fits."""

import jax
import jax.numpy as jnp
import judge_folder
import numpy as np
import pytest

from sana_jax import config
from sana_jax.models import abstract
from sana_jax.models.autoencoders.dc_ae import DCAE
from sana_jax.models.controlnet import SanaControlNet
from sana_jax.models.gemma2 import Gemma2
from sana_jax.models.ladd import Heads
from sana_jax.models.sana import Sana
from sana_jax.sharding import rules, tables
from sana_jax.sharding.mesh import make_mesh
from sana_jax.weights import kinds, nvila

SMALL = dict(
  width=32,
  depth=3,
  cross_heads=2,
  head_dim=8,
  in_channels=4,
  out_channels=4,
  caption_channels=16,
)
FLAGS = {
  'plain': {},
  'everything': dict(
    qk_norm=True,
    cross_norm=True,
    attention_bias=True,
    norm_affine=True,
    guidance_embeds=True,
    patch_size=2,
    interpolation_scale=1.0,
  ),
}


@pytest.fixture
def mesh():
  return make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})


def shards(shapes, table, mesh):
  """Shape of what each device holds, by path, from arrays laid out for real."""
  laid = rules.shardings(shapes, table, mesh)
  arrays = jax.tree.map(
    lambda s, sharding: jax.device_put(np.zeros(s.shape, s.dtype), sharding),
    shapes,
    laid,
  )
  flat, _ = jax.tree_util.tree_flatten_with_path(arrays)
  return {
    jax.tree_util.keystr(p, simple=True, separator='/'): (
      x.shape,
      x.addressable_shards[0].data.shape,
    )
    for p, x in flat
  }


@pytest.mark.parametrize('flags', FLAGS)
def test_sana_is_split_where_it_is_large(mesh, flags):
  shapes = abstract.transformer(Sana(**SMALL, **FLAGS[flags]))
  held = shards(shapes, tables.SANA, mesh)
  for path, whole, part in (
    ('blocks/self_attention/query/kernel', (3, 32, 32), (3, 16, 16)),
    ('blocks/cross_attention/out/kernel', (3, 32, 32), (3, 16, 16)),
    ('blocks/mix_ffn/inverted/kernel', (3, 32, 160), (3, 16, 80)),
    ('blocks/mix_ffn/depthwise/kernel', (3, 3, 3, 160), (3, 3, 3, 80)),
    ('blocks/mix_ffn/point/kernel', (3, 80, 32), (3, 40, 16)),
  ):
    assert held[path] == (whole, part)
  # Only vectors and modulation tables are whole on every device.
  for path, (whole, part) in held.items():
    assert (whole != part) == path.endswith('kernel')


def test_each_mesh_axis_splits_its_own_axis_of_a_kernel():
  # fsdp and tensor have different sizes, so that the shards tell them apart.
  mesh = make_mesh({'fsdp': 4, 'tensor': 2})
  shapes = abstract.transformer(Sana(**SMALL, guidance_embeds=True))
  held = shards(shapes, tables.SANA, mesh)
  parts = {path: part for path, (_, part) in held.items() if 'kernel' in path}
  attention = {
    f'blocks/{kind}_attention/{name}/kernel': part
    for kind in ('self', 'cross')
    for name, part in {
      **dict.fromkeys(('query', 'key', 'value'), (3, 8, 16)),
      'out': (3, 16, 8),
    }.items()
  }
  assert parts == attention | {
    'patch_embed/kernel': (1, 1, 4, 8),
    'time_embed/timestep/linear1/kernel': (64, 32),
    'time_embed/timestep/linear2/kernel': (8, 32),
    'time_embed/guidance/linear1/kernel': (64, 32),
    'time_embed/guidance/linear2/kernel': (8, 32),
    'time_embed/modulation/kernel': (8, 192),
    'caption/linear1/kernel': (4, 32),
    'caption/linear2/kernel': (8, 32),
    'blocks/mix_ffn/inverted/kernel': (3, 8, 80),
    'blocks/mix_ffn/depthwise/kernel': (3, 3, 3, 80),
    'blocks/mix_ffn/point/kernel': (3, 40, 8),
    'head/out/kernel': (8, 4),
  }


@pytest.mark.parametrize(
  'flags',
  [
    {},
    dict(
      qk_norm=True,
      cross_norm=True,
      attention_bias=True,
      norm_affine=True,
      patch_size=2,
    ),
  ],
)
def test_a_controlnet_is_split_as_its_transformer(mesh, flags):
  fields = {k: v for k, v in SMALL.items() if k != 'out_channels'}
  shapes = kinds.PARTS['controlnet'].shapes(SanaControlNet(**fields, **flags))[
    'params'
  ]
  held = shards(shapes, tables.CONTROLNET, mesh)
  whole = shards(
    abstract.transformer(Sana(**SMALL, **flags)), tables.SANA, mesh
  )
  own = {path: parts for path, parts in held.items() if path not in whole}
  assert own == {
    'input/kernel': ((32, 32), (16, 32)),
    'input/bias': ((32,), (32,)),
    'blocks/output/kernel': ((3, 32, 32), (3, 16, 32)),
    'blocks/output/bias': ((3, 32), (3, 32)),
  }
  assert all(
    parts == whole[path] for path, parts in held.items() if path not in own
  )


@pytest.mark.parametrize('size', config.SANA_SIZES)
def test_published_sizes_divide(size):
  shapes = abstract.transformer(Sana(**config.SANA_SIZES[size]))
  laid = rules.shardings(
    shapes, tables.SANA, make_mesh({'fsdp': 4, 'tensor': 2})
  )
  kernel = lambda tree: tree['blocks']['mix_ffn']['inverted']['kernel']
  depth, width, hidden = kernel(shapes).shape
  assert kernel(laid).shard_shape(kernel(shapes).shape) == (
    depth,
    width // 4,
    hidden // 2,
  )


def test_gemma_is_split_where_it_is_large(mesh):
  model = Gemma2(
    vocab_size=24,
    width=16,
    depth=2,
    heads=4,
    kv_heads=2,
    head_dim=4,
    hidden=32,
    query_scale=4,
  )
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jnp.zeros((1, 2), int),
    jnp.ones((1, 2), bool),
  )['params']
  held = shards(shapes, tables.GEMMA2, mesh)
  assert held['embed/embedding'] == ((24, 16), (24, 8))
  assert held['layers/query/kernel'] == ((2, 16, 16), (2, 8, 8))
  assert held['layers/down/kernel'] == ((2, 32, 16), (2, 16, 8))


@pytest.mark.parametrize('tied', [True, False])
def test_the_judge_is_split_in_all_its_parts(mesh, tied):
  llm = judge_folder.CONFIGS['llm'] | {'tie_word_embeddings': tied}
  module, _ = nvila.assembled(
    judge_folder.CONFIGS | {'llm': llm}, 1, jnp.float32
  )
  table = tables.NVILA if tied else tables.NVILA_UNTIED
  held = shards(nvila.shapes(module)['params'], table, mesh)
  assert held['tower/layers/fc1/kernel'] == ((1, 12, 20), (1, 6, 10))
  assert held['projector/linear0/kernel'] == ((108, 36), (54, 36))
  assert held['llm/layers/down/kernel'] == ((2, 24, 16), (2, 12, 8))
  assert held['llm/table/embedding'][1][1] == 8


def test_heads_of_the_discriminator_are_split_along_their_inputs(mesh):
  shapes = jax.eval_shape(
    Heads().init, jax.random.key(0), [jnp.zeros((1, 4, 16))]
  )
  held = shards(shapes, tables.LADD_HEADS, mesh)
  split = {p: parts for p, parts in held.items() if parts[0] != parts[1]}
  assert split == {
    'params/head_0/first/kernel': ((1, 16, 16), (1, 8, 16)),
    'params/head_0/second/kernel': ((9, 16, 16), (9, 8, 16)),
    'params/head_0/out/kernel': ((1, 16, 1), (1, 8, 1)),
  }
  assert held['spectral/head_0/second/v'] == ((9, 16), (9, 16))


def test_the_autoencoder_is_whole_on_every_device(mesh):
  model = DCAE(**config.dc_ae_fields(4, [8, 32], [1, 1], 1))
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
  )['params']
  held = shards(shapes, tables.DC_AE, mesh)
  assert all(whole == part for whole, part in held.values())


def test_a_new_parameter_does_not_pass_unseen(mesh):
  shapes = abstract.transformer(Sana(**SMALL))
  shapes['blocks']['gate'] = {'kernel': jnp.zeros((3, 32, 32))}
  with pytest.raises(rules.RuleError, match='blocks/gate/kernel .* 0 patterns'):
    rules.shardings(shapes, tables.SANA, mesh)
