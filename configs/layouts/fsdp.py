"""Fully sharded: parameters, optimizer, EMA and batch over all devices.

The recommended default: it has the least state per device, and all-gathers the
weights of one block at a time.
"""

LAYOUT = {
  'mesh.slices': 1,
  'mesh.data': 1,
  'mesh.fsdp': -1,
  'mesh.tensor': 1,
  'mesh.sequence': 1,
}
