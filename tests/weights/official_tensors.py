"""Names and shapes of NVIDIA's transformers, published and tiny."""

import math

import numpy as np

from sana_jax.weights.tensors import Stored, stored


def linear(name, n_out, n_in, bias=True):
  return {f'{name}.weight': (n_out, n_in)} | (
    {f'{name}.bias': (n_out,)} if bias else {}
  )


def block(name, width, norm):
  hidden = int(2.5 * width)
  out = {
    'scale_shift_table': (6, width),
    **linear('attn.qkv', 3 * width, width, bias=False),
    **linear('attn.proj', width, width),
    **linear('cross_attn.q_linear', width, width),
    **linear('cross_attn.kv_linear', 2 * width, width),
    **linear('cross_attn.proj', width, width),
    'mlp.inverted_conv.conv.weight': (2 * hidden, width, 1, 1),
    'mlp.inverted_conv.conv.bias': (2 * hidden,),
    'mlp.depth_conv.conv.weight': (2 * hidden, 1, 3, 3),
    'mlp.depth_conv.conv.bias': (2 * hidden,),
    'mlp.point_conv.conv.weight': (width, hidden, 1, 1),
  }
  if norm:
    out |= {
      f'{a}.{x}_norm.weight': (width,)
      for a in ('attn', 'cross_attn')
      for x in 'qk'
    }
  return {f'{name}.{key}': shape for key, shape in out.items()}


def shapes(width, depth, norm=False, sprint=False, control=0):
  """Names and shapes of NVIDIA's SanaMS and SanaMSControlNet, no buffers."""
  out = {
    'x_embedder.proj.weight': (width, 32, 1, 1),
    'x_embedder.proj.bias': (width,),
    **linear('t_embedder.mlp.0', width, 256),
    **linear('t_embedder.mlp.2', width, width),
    **linear('t_block.1', 6 * width, width),
    **linear('y_embedder.y_proj.fc1', width, 2304),
    **linear('y_embedder.y_proj.fc2', width, width),
    'attention_y_norm.weight': (width,),
    'final_layer.scale_shift_table': (2, width),
    **linear('final_layer.linear', 32, width),
  }
  for i in range(depth):
    out |= block(f'blocks.{i}', width, norm)
  if sprint:
    out |= linear('cfg_embedder.mlp.0', width, 256)
    out |= linear('cfg_embedder.mlp.2', width, width)
    out |= linear('logvar_linear', 1, width)
  for i in range(control):
    out |= block(f'controlnet.{i}.copied_block', width, norm)
    out |= linear(f'controlnet.{i}.after_proj', width, width)
  return out | (
    linear('controlnet.0.before_proj', width, width) if control else {}
  )


def lazy(tensors):
  return {name: stored(x) for name, x in tensors.items()}


def unread(named_shapes, dtype=np.float32):
  """Tensors whose values must not be read."""

  def fetch(a, b):
    raise AssertionError('a name was looked up, and a value read')

  return {
    name: Stored(shape, np.dtype(dtype), fetch)
    for name, shape in named_shapes.items()
  }


def size(tensors):
  return sum(math.prod(t.shape) for t in tensors.values())


def shapes_of(width, depth):
  return unread(shapes(width, depth))
