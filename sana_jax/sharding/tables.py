"""Which axis of which parameter lies on which mesh axis, one table a model.

Total and exact: each parameter is named once, see rules.py. Kernels are split
over `fsdp` along their inputs and over `tensor` along the heads or hidden
channels; what is small is on every device. Blocks have a leading layer axis.
"""

_SHARED = (
  (r'patch_embed/kernel', (None, None, None, 'fsdp')),
  # By inputs: by outputs, XLA gathers factors of its gradient (hybrid meshes).
  (r'time_embed/(timestep|guidance)/linear[12]/kernel', ('fsdp', None)),
  (r'time_embed/modulation/kernel', ('fsdp', None)),
  (r'caption/linear[12]/kernel', ('fsdp', None)),
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
SANA = (*_SHARED, (r'head/out/kernel', ('fsdp', None)))
CONTROLNET = (
  *_SHARED,
  (r'input/kernel', ('fsdp', None)),
  (r'blocks/output/kernel', (None, 'fsdp', None)),
)
GEMMA2 = (
  (r'embed/embedding', (None, 'fsdp')),
  (r'layers/(query|key|value|gate|up)/kernel', (None, 'fsdp', 'tensor')),
  (r'layers/(out|down)/kernel', (None, 'tensor', 'fsdp')),
  (r'.*/scale', ()),
)
# Convolutional, and small beside its activations: on every device.
DC_AE = ((r'.*', ()),)
