"""Sizes at which a pipeline draws: trained ones, or multiples of the latents.

`pipe` is a Pipeline; its public methods have the same sizes.
"""

from sana_jax.errors import UserError
from sana_jax.inference import bins


def of_ratio(pipe, ratio: float) -> tuple[int, int]:
  """(height, width) near the default area, see `Pipeline.size_of_ratio`."""
  side, f = pipe.size_px, pipe.autoencoder.module.spec.side
  height, width = (
    max(1, round(side * r / f)) * f for r in (ratio**-0.5, ratio**0.5)
  )
  return bins.nearest(height, width, pipe.transformer.module.sample_size)


def trained(pipe, height: int, width: int, binning: bool) -> tuple[int, int]:
  """The size of a picture's drawing, see `Pipeline.trained_size`."""
  if binning:
    size = pipe.transformer.module.sample_size
    if size in bins.TABLES:
      return bins.nearest(height, width, size)
  check_size(height, width, pipe.autoencoder.module.spec.side)
  return height, width


def of_image(pipe, height: int, width: int, binning: bool) -> tuple[int, int]:
  """The same for an image, whose sides may be no multiples: the next ones."""
  if binning:
    size = pipe.transformer.module.sample_size
    height, width = bins.nearest(height, width, size)
  f = pipe.autoencoder.module.spec.side
  return -(-height // f) * f, -(-width // f) * f


def check_size(height: int, width: int, compression: int) -> None:
  """Raises UserError unless both sides are multiples of the compression."""
  for name, value in (('height', height), ('width', width)):
    if value < compression or value % compression:
      below = max(compression, value // compression * compression)
      raise UserError(
        f"{name} is {value}; it must be a multiple of the autoencoder's "
        f'compression, {compression}, such as {below}.',
        key=name,
        value=value,
        allowed=f'a multiple of {compression}, such as {below}',
      )
