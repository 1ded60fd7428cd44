"""Data parallel: every device has the whole model and its part of the batch.

For models whose state fits on a device beside its activations: the 0.6B
with CAME on 16 GiB, the 1.6B on 80 GiB. Gradients are added up once a step.
"""

LAYOUT = {
  'mesh.slices': 1,
  'mesh.data': -1,
  'mesh.fsdp': 1,
  'mesh.tensor': 1,
  'mesh.sequence': 1,
}
