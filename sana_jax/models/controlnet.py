"""ControlNet of SANA: a copy of the first blocks that reads a control image.

  x = start + input(embed(control latents))
  output_k = output layer k (x after block k) * scale

There are two wirings. In diffusers', `start` is embed(latents), and the
transformer adds output k after its block k + 1. In the official one, the
ControlNet runs alongside the transformer: `start` is the transformer's x after
its block 0 (`first_block`), output k is added after block k, and times are
rounded to the models' dtype (`rounded_timesteps` of both). The published
weights were trained in the official way. The layers `input` and `output` are
initialised to zero, so that training starts from the plain transformer.
models/controlled.py joins a net and its transformer.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.models.attention import KeysValues
from sana_jax.models.backbone import Backbone
from sana_jax.models.block import Block
from sana_jax.models.layers import Dense
from sana_jax.models.sana import Sana
from sana_jax.sharding.activations import constrain_tokens
from sana_jax.typing import Array, Bool, Float, Params, PyTree

# Block of the transformer that the first output follows, by wiring.
AFTER = {'diffusers': 1, 'official': 0}
# Embeddings that a net copies from its transformer, and that stay as they are.
EMBEDDINGS = ('caption', 'patch_embed', 'time_embed')


class ControlBlock(Block):
  """Block that also returns its x, through a layer, for the transformer."""

  def setup(self):
    super().setup()
    self.output = Dense(
      self.fields.width,
      kernel_init=nn.initializers.zeros,
      dtype=self.fields.dtype,
    )

  def __call__(self, *args, **kwargs):
    x, _ = super().__call__(*args, **kwargs)
    return x, self.output(x)


class SanaControlNet(Backbone):
  """ControlNet: outputs for a Sana's blocks, from a control image's latents.

  The fields are those of `Backbone`; the published one has 7 blocks.

  Attributes:
    wiring: how it is connected to its transformer, a key of AFTER.
  """

  wiring: str = 'diffusers'

  block_class = ControlBlock

  def setup(self):
    super().setup()
    self.input = Dense(
      self.width, kernel_init=nn.initializers.zeros, dtype=self.dtype
    )

  def __call__(
    self,
    latents: Float[Array, 'b y x c'],
    timesteps: Float[Array, 'b'],
    text: Float[Array, 'b m e'] | KeysValues,
    control: Float[Array, 'b y x c'],
    mask: Bool[Array, 'b m'] | None = None,
    scale: float | Float[Array, ''] | Float[Array, 'b 1 1'] = 1.0,
    start: Float[Array, 'b n d'] | None = None,
  ) -> Float[Array, 'l b n d']:
    """Returns one output per block; `control` are scaled like `latents`."""
    hint, grid = self.tokens(control)
    x = self.tokens(latents)[0] if start is None else start.astype(self.dtype)
    x = constrain_tokens(x + self.input(hint), grid)
    _, modulation = self.embed_time(timesteps, None)
    *_, outputs = self.run_blocks(x, grid, modulation, text, mask)
    return (outputs * scale).astype(self.dtype)


def controlnet_of(base: Sana, depth: int, wiring: str) -> SanaControlNet:
  """Returns the net of a transformer's first `depth` blocks."""
  shared = set(Backbone.__dataclass_fields__) - {'parent', 'name', 'depth'}
  return SanaControlNet(
    depth=depth,
    wiring=wiring,
    **{key: getattr(base, key) for key in shared}
    | {'unroll': min(base.unroll, depth)},
  )


def first_params(base: Params, depth: int) -> Params:
  """Returns the trainable parameters at step 0: copied blocks, zero layers."""
  blocks = jax.tree.map(lambda x: x[:depth], base['blocks'])
  width = base['patch_embed']['bias'].shape[0]
  zeros = lambda *shape: {
    'kernel': jnp.zeros((*shape, width, width), jnp.float32),
    'bias': jnp.zeros((*shape, width), jnp.float32),
  }
  return {'blocks': {**blocks, 'output': zeros(depth)}, 'input': zeros()}


def with_embeddings(params: Params, base: Params) -> Params:
  """Returns all parameters of a net: the trainable ones, and the base's."""
  return {**params, **{key: base[key] for key in EMBEDDINGS}}


def first_block(
  model: Sana,
  variables: PyTree,
  latents: Float[Array, 'b y x c'],
  timesteps: Float[Array, 'b'],
  text: Float[Array, 'b m e'] | KeysValues,
  mask: Bool[Array, 'b m'] | None = None,
  guidance: Float[Array, 'b'] | None = None,
) -> Float[Array, 'b n d']:
  """Returns the transformer's x after block 0: the official code's `start`."""
  # Blocks are stacked along the first axis, their keys and values the second.
  if isinstance(text, KeysValues):
    text = jax.tree.map(lambda x: x[:, :1], text)
  first = {
    name: {**tree, 'blocks': jax.tree.map(lambda x: x[:1], tree['blocks'])}
    if 'blocks' in tree
    else tree
    for name, tree in variables.items()
  }
  return (
    model.clone(depth=1, unroll=1)
    .apply(
      first,
      latents,
      timesteps,
      text,
      mask,
      guidance,
      features=(0,),
      method='evaluate',
    )
    .features[0]
  )
