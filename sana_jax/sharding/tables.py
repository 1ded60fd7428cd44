"""Sharding tables of the models.

They are total and exact: each parameter is matched once, see rules.py. Kernels
are sharded over `fsdp` along their inputs and over `tensor` along the heads or
hidden channels; small parameters are replicated. Blocks have a leading layer
axis.
"""

from collections.abc import Collection
import re

_EMBEDDINGS = (
  (r'patch_embed/kernel', (None, None, None, 'fsdp')),
  # Along inputs: along outputs, XLA all-gathers factors of its gradient on
  # hybrid meshes.
  (r'time_embed/(timestep|guidance)/linear[12]/kernel', ('fsdp', None)),
  (r'time_embed/modulation/kernel', ('fsdp', None)),
  (r'caption/linear[12]/kernel', ('fsdp', None)),
)
_BLOCKS = (
  (
    r'blocks/(self|cross)_attention/(query|key|value)/kernel',
    (None, 'fsdp', 'tensor'),
  ),
  (r'blocks/(self|cross)_attention/out/kernel', (None, 'tensor', 'fsdp')),
  (r'blocks/mix_ffn/inverted/kernel', (None, 'fsdp', 'tensor')),
  (r'blocks/mix_ffn/depthwise/kernel', (None, None, None, 'tensor')),
  (r'blocks/mix_ffn/point/kernel', (None, 'tensor', 'fsdp')),
  (r'.*/(bias|scale|scale_shift_table)', ()),
)
_EMBEDDINGS = (*_EMBEDDINGS, *_BLOCKS)
SANA = (*_EMBEDDINGS, (r'(head/out|log_variance)/kernel', ('fsdp', None)))
_CONTROL = (
  (r'input/kernel', ('fsdp', None)),
  (r'blocks/output/kernel', (None, 'fsdp', None)),
)
CONTROLNET = (*_EMBEDDINGS, *_CONTROL)
# Its parameters in training: embeddings are those of the frozen transformer.
CONTROLNET_TRAINED = (*_BLOCKS, *_CONTROL)
GEMMA2 = (
  (r'embed/embedding', (None, 'fsdp')),
  (r'layers/(query|key|value|gate|up)/kernel', (None, 'fsdp', 'tensor')),
  (r'layers/(out|down)/kernel', (None, 'tensor', 'fsdp')),
  (r'.*/scale', ()),
)
# NVILA: SigLIP, the projector and Qwen2, whose output layer may be untied.
NVILA = (
  (r'tower/patch_embed/kernel', (None, None, None, 'fsdp')),
  (r'tower/position', (None, 'fsdp')),
  (r'(tower|llm)/layers/(query|key|value)/kernel', (None, 'fsdp', 'tensor')),
  (r'(tower/layers/fc1|llm/layers/(gate|up))/kernel', (None, 'fsdp', 'tensor')),
  (r'(tower|llm)/layers/out/kernel', (None, 'tensor', 'fsdp')),
  (r'(tower/layers/fc2|llm/layers/down)/kernel', (None, 'tensor', 'fsdp')),
  (r'projector/linear\d/kernel', ('fsdp', None)),
  (r'llm/table/embedding', (None, 'fsdp')),
  (r'.*/(bias|scale)', ()),
)
NVILA_UNTIED = (*NVILA, (r'llm/head', ('fsdp', None)))
# The discriminator's heads, with the vectors of their spectral norms.
LADD_HEADS = (
  (r'.*/kernel', (None, 'fsdp', None)),
  (r'.*/(bias|scale|u|v)', ()),
)
# Replicated: convolutional, and small compared to its activations.
DC_AE = ((r'.*', ()),)


def with_adapters(
  table, layers: Collection[str], magnitudes: bool = False, key='adapters'
):
  """The table with rows for the adapters, under `key`, of these layers.

  `down` is sharded along the kernel's inputs and `up` along its outputs, so
  that both products are where the layer's are; the rank is never split, and
  DoRA's `magnitudes` are replicated.
  """
  rows = []
  for pattern, spec in table:
    kernel = pattern.removesuffix('/kernel')
    if kernel == pattern or not any(
      re.fullmatch(kernel, layer) for layer in layers
    ):
      continue
    *before, inputs, outputs = spec if len(spec) > 1 else (*spec, None)
    stack = before if len(before) == 1 else ()
    rows += [
      (f'{key}/(?:{kernel})/down', (*before, inputs, None)),
      (f'{key}/(?:{kernel})/up', (*stack, None, outputs)),
    ]
  return (*table, *rows, *[(f'{key}/.*/magnitude', ())] * magnitudes)
