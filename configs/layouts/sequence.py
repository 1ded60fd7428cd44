"""Fully sharded, with the rows of an image's latents over four neighbours.

For 2K and 4K, where one image has 4,096 or 16,384 tokens: linear attention
all-reduces a small state, the Mix-FFN exchanges one row.
"""

LAYOUT = {
  'mesh.slices': 1,
  'mesh.data': 1,
  'mesh.fsdp': -1,
  'mesh.tensor': 1,
  'mesh.sequence': 4,
}
