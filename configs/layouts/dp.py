"""Data parallel: every device has a replica of the model and a batch shard.

For models whose state fits on a device beside its activations: the 0.6B with
CAME on 16 GiB, the 1.6B on 80 GiB. Gradients are all-reduced once per step.
"""

LAYOUT = {
  'mesh.slices': 1,
  'mesh.data': -1,
  'mesh.fsdp': 1,
  'mesh.tensor': 1,
  'mesh.sequence': 1,
}
