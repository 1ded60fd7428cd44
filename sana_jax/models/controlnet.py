"""SANA's ControlNet: a copy of the first blocks that reads a control image.

  x = start + input(embed(control latents))
  output_k = output layer k (x after block k) * scale

In diffusers, which this follows, `start` is embed(latents), and the transformer
adds output k after its block k + 1. In the official code the ControlNet runs
beside the transformer: `start` is the transformer's x after its block 0
(`first_block`), output k is added after block k (`Sana.control_after` 0), and
times are rounded to the models' dtype (`rounded_timesteps` of both). The
published weights were trained in the official way. The layers `input` and
`output` are zero at first, so that training starts from the transformer alone.
"""

import flax.linen as nn
import jax

from sana_jax.models.attention import KeysValues
from sana_jax.models.backbone import Backbone
from sana_jax.models.block import Block
from sana_jax.models.layers import Dense
from sana_jax.models.sana import Sana
from sana_jax.sharding.activations import constrain_tokens
from sana_jax.typing import Array, Bool, Float, Params


class ControlBlock(Block):
  """A block whose x also goes to the transformer, through a layer."""

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
  """Outputs for a Sana's blocks, from a control image's latents.

  The fields are those of `Backbone`; 7 blocks are published.
  """

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
    scale: float | Float[Array, ''] = 1.0,
    start: Float[Array, 'b n d'] | None = None,
  ) -> Float[Array, 'l b n d']:
    """One output a block; `control` are scaled latents, as `latents` are."""
    hint, grid = self.tokens(control)
    x = self.tokens(latents)[0] if start is None else start.astype(self.dtype)
    x = constrain_tokens(x + self.input(hint), grid)
    _, modulation = self.embed_time(timesteps, None)
    *_, outputs = self.run_blocks(x, grid, modulation, text, mask)
    return (outputs * scale).astype(self.dtype)


def first_block(
  model: Sana,
  params: Params,
  latents: Float[Array, 'b y x c'],
  timesteps: Float[Array, 'b'],
  text: Float[Array, 'b m e'],
  mask: Bool[Array, 'b m'] | None = None,
) -> Float[Array, 'b n d']:
  """The transformer's x after its block 0: `start`, in the official way."""
  blocks = jax.tree.map(lambda stack: stack[:1], params['blocks'])
  return (
    model.clone(depth=1, unroll=1)
    .apply(
      {'params': {**params, 'blocks': blocks}},
      latents,
      timesteps,
      text,
      mask,
      features=(0,),
      method='evaluate',
    )
    .features[0]
  )
