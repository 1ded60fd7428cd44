"""Control images of a call: read, fitted, annotated, encoded as hints."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from sana_jax import fields
from sana_jax.data import annotators
from sana_jax.errors import UserError
from sana_jax.inference import input_image
from sana_jax.inference.schedulers import time_grid
from sana_jax.models.controlled import controlled, Hint
from sana_jax.printable import counted
from sana_jax.typing import Array, Float, UInt8
from sana_jax.weights.folder import Model

_MOST_STRETCH = 0.1  # Of a control image, as a difference of log ratios.


@dataclasses.dataclass(frozen=True)
class Options:
  """How a net's control image is used.

  Attributes:
    scale: factor of its outputs.
    start, end: fractions of the steps between which it is used.
    annotator: makes the control image of the given one; '' uses it as it is.
  """

  scale: float | int = 1.0
  start: float | int = 0.0
  end: float | int = 1.0
  annotator: str = ''

  def steps(self, count: int) -> tuple[int, int] | None:
    """First and last step of `count` with control; None if there is none.

    As in diffusers' ControlNet pipelines: steps i with i / count >= start and
    (i + 1) / count <= end.
    """
    used = [
      i
      for i in range(count)
      if i / count >= self.start and (i + 1) / count <= self.end
    ]
    return (used[0], used[-1]) if used else None


_FIELDS = {
  'scale': fields.number(0, 100),
  'start': fields.number(0, 1),
  'end': fields.number(0, 1),
  'annotator': fields.choice('', *annotators.OF_IMAGES),
}


def options_of(given: Mapping[str, Any] | None, nets: int) -> list[Options]:
  """The options of each net; a list in `given` has that of each.

  Raises UserError for an unknown or invalid one.
  """
  given = dict(given or {})
  if unknown := sorted(set(given) - set(_FIELDS)):
    raise UserError(
      f'control has the option {unknown[0]!r}; allowed are '
      f'{", ".join(_FIELDS)}.',
      key='control',
      value=unknown[0],
      allowed=tuple(_FIELDS),
    )
  found = []
  for i in range(nets):
    values = {
      key: fields.plain(_of_net(f'control {key}', value, i, nets))
      for key, value in given.items()
    }
    fields.check('control', values, _FIELDS)
    found.append(Options(**values))
    if found[-1].start >= found[-1].end:
      raise UserError(
        f'control has start {found[-1].start:g} and end {found[-1].end:g}; '
        'start must be less than end.',
        key='start',
        value=found[-1].start,
        allowed='less than end',
      )
  return found


def _of_net(name, value, net, nets):
  """Value of one net, of one for all or a list with one for each."""
  if not isinstance(value, list | tuple):
    return value
  if len(value) != nets:
    raise UserError(
      f'{name} has {counted(len(value), "entry", "entries")} for '
      f'{counted(nets, "ControlNet")}; give one for each.',
      key=name,
      value=len(value),
      allowed=(nets,),
    )
  return value[net]


def network(pipe, hints: Sequence[Hint] | None) -> Model:
  """The transformer, with its ControlNets if there are hints for them."""
  if not hints:
    return pipe.transformer
  return Model(*controlled(*pipe.transformer, pipe.controlnets))


def of_call(pipe, call, size: tuple[int, int]) -> tuple[Hint, ...] | None:
  """A hint for each ControlNet of the pipeline; None if it has none.

  Control images are resized by Lanczos to `size` = (height, width), the one
  that is drawn, and encoded like images.

  Raises:
    UserError: for a missing or unreadable image, or one of another ratio.
  """
  nets = len(pipe.controlnets)
  check_given(pipe, call.control_image, call.control)
  if not nets:
    return None
  images = call.control_image
  if nets > 1 and not isinstance(images, list | tuple):
    images = [images] * nets
  elif nets == 1:
    images = [images]
  grid = time_grid(
    call.sampler, call.steps, call.flow_shift, call.convention, call.times
  )
  of_net = lambda i: _of_net('control_image', images, i, nets)
  return tuple(
    _hint(pipe, of_net(i), options, call, grid.timesteps, size)
    for i, options in enumerate(options_of(call.control, nets))
  )


def check_given(pipe, image: Any, options: Any) -> None:
  """Raises UserError if a control image is missing, or nothing uses it."""
  if pipe.controlnets and image is None:
    raise UserError(
      'control_image is missing; the pipeline has a ControlNet, which needs '
      'one.',
      key='control_image',
    )
  if not pipe.controlnets and not (image is None and options is None):
    name = 'control' if image is None else 'control_image'
    raise UserError(
      f'{name} is given, and the pipeline has no ControlNet; add one by '
      'with_controlnet.',
      key=name,
      allowed='with a ControlNet',
    )


def _hint(pipe, images, options, call, timesteps, size):
  each = list(images) if input_image.is_several(images) else [images]
  count = len(call.prompts)
  input_image.check_count('control_image', each, count)
  shown = call.height, call.width
  latents = latents_of(pipe, each, options.annotator, shown, size)
  repeats = call.num_images * (count if len(each) == 1 else 1)
  latents = jnp.repeat(latents, repeats, axis=0)
  used, rows = options.steps(len(timesteps)), len(latents)
  full = lambda value: jnp.full(rows, value, jnp.float32)
  if used is None:
    return Hint(latents, full(0.0))
  if used == (0, len(timesteps) - 1):
    return Hint(latents, full(options.scale))
  first, last = (timesteps[i] for i in used)
  return Hint(latents, full(options.scale), full(first), full(last))


def latents_of(
  pipe,
  images: Sequence[Any],
  annotator: str,
  shown: tuple[int, int],
  size: tuple[int, int],
) -> Float[Array, 'b y x c']:
  """Latents of control images, see `pixels`; equal ones are encoded once."""

  def encoded(image):
    made = pixels(image, shown, size)
    if annotator:
      made = annotators.of_image(annotator, made)
    with pipe.on_mesh():
      return input_image.encoded(pipe.autoencoder, made)

  return jnp.concatenate(input_image.each(images, encoded))


def pixels(
  image: Any, shown: tuple[int, int], size: tuple[int, int]
) -> UInt8[np.ndarray, 'y x 3']:
  """A control image in the size that is drawn, for a picture of size `shown`.

  Raises UserError for an image of another ratio.
  """
  image = input_image.pixels(image, 'control_image')
  check_ratio(image, shown, size)
  if image.shape[:2] == tuple(size):
    return image
  resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS)
  return np.asarray(resized)


def check_ratio(
  image: UInt8[np.ndarray, 'y x 3'],
  shown: tuple[int, int],
  size: tuple[int, int],
) -> None:
  """Raises UserError unless an image has the ratio of one of the sizes."""
  height, width = image.shape[:2]
  off = min(
    abs(math.log(height / width) - math.log(h / w)) for h, w in (shown, size)
  )
  if off > _MOST_STRETCH:
    raise UserError(
      f'control_image has {width} x {height} pixels, and the picture '
      f'{shown[1]} x {shown[0]}; give an image of its ratio.',
      key='control_image',
      value=(height, width),
      allowed=f'the ratio of {shown[1]} x {shown[0]}',
    )
