"""Fully sharded, with heads and hidden channels over pairs of neighbours.

For more devices than images in the batch. The 0.6B has 36 heads of linear
attention and 16 of cross-attention, the 1.6B 70 and 20, so tensor=2 fits both;
--config.mesh.tensor=4 fits the 0.6B.
"""

LAYOUT = {
  'mesh.slices': 1,
  'mesh.data': 1,
  'mesh.fsdp': -1,
  'mesh.tensor': 2,
  'mesh.sequence': 1,
}
