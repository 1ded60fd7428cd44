"""Fully sharded: parameters, optimizer, average and batch over all devices.

What to start with: it has the least state a device, and gathers the weights
of one block at a time.
"""

LAYOUT = {
  'mesh.slices': 1,
  'mesh.data': 1,
  'mesh.fsdp': -1,
  'mesh.tensor': 1,
  'mesh.sequence': 1,
}
