"""Fully sharded within each of two slices, and data parallel across them.

For several TPU slices, or hosts of GPUs, connected by slow links: only the
gradients cross these, once per step. --config.mesh.slices is their number.
"""

LAYOUT = {
  'mesh.slices': 2,
  'mesh.data': 1,
  'mesh.fsdp': -1,
  'mesh.tensor': 1,
  'mesh.sequence': 1,
}
