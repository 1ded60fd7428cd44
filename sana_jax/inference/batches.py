"""Many pictures in batches, with one compilation per size and settings.

Requests of one size, sampler, guidance and number of steps are batched in
order; the last batch of them is padded with copies instead of compiled again.
The next batch is dispatched before the current one is fetched.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
import json
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sana_jax.errors import is_out_of_memory, UserError
from sana_jax.inference import decoding
from sana_jax.inference.decoding import NOT_FINITE
from sana_jax.printable import printable
from sana_jax.text.encode import TextError
from sana_jax.typing import Array

# Pictures of which each request of a batch may have its own.
_OF_EACH = ('image', 'mask', 'control_image')


class Request(NamedTuple):
  """One picture: the k-th of its prompt and seed; sizes in pixels.

  Steps and what follows them are by default those of all requests.
  `control_image` has one for each ControlNet.
  """

  prompt: str
  seed: int
  number: int = 0
  negative_prompt: str = ''
  height: int | None = None
  width: int | None = None
  steps: int | None = None
  guidance_scale: float | int | None = None
  sampler: str | None = None
  image: Any = None
  strength: float | None = None
  mask: Any = None
  mask_blur: float | int | None = None
  padding_mask_crop: int | None = None
  control_image: Sequence[Any] | None = None

  @property
  def program(self) -> tuple:
    """Values that all requests of a batch share."""
    settings = self.settings()
    if self.padding_mask_crop is None:  # Else masks decide the drawn size.
      settings |= {key: True for key in _OF_EACH if key in settings}
    values = json.dumps(settings, sort_keys=True, default=id)
    return self.height, self.width, values

  def settings(self) -> dict[str, Any]:
    """Settings that replace those of all requests."""
    keys = Request._fields[Request._fields.index('steps') :]
    own = {key: getattr(self, key) for key in keys}
    return {key: value for key, value in own.items() if value is not None}


def request_of(about: Mapping[str, Any]) -> Request:
  """The request in a picture's metadata."""
  return Request(**{k: about[k] for k in Request._fields if k in about})


def plan(requests: Sequence[Request], size: int) -> list[list[int]]:
  """Indices of the requests of each batch, at most `size`."""
  by_program = {}
  for i, request in enumerate(requests):
    by_program.setdefault(request.program, []).append(i)
  return [
    group[start : start + size]
    for group in by_program.values()
    for start in range(0, len(group), size)
  ]


def generate(
  pipe,
  requests: Sequence[Request],
  batch_size: int,
  *,
  wanted: Set[int] | None = None,
  on_bad: Callable[[list[int], str], None] | None = None,
  **settings: Any,
) -> Iterator[tuple[list[int], Array]]:
  """(indices of requests, their images on the devices), a batch at a time.

  If a size does not fit in memory, its error is raised after all other sizes
  are drawn.

  Args:
    wanted: indices whose images are needed, by default all. Batches without
      any are skipped; the others are unchanged, so that a restart draws the
      same bytes.
    on_bad: called with the indices of requests whose text cannot be encoded, or
      whose pictures have NaN, and the reason; by default the error is raised.
  """
  drawn = _drawn(pipe, requests, batch_size, wanted, on_bad, settings)
  for indices, images in _one_behind(drawn):  # The next one is in flight.
    bad = _not_finite(images)
    if bad and on_bad is None:
      raise UserError(
        f'The picture of {printable(requests[indices[bad[0]]].prompt, 60)!r} '
        f'{NOT_FINITE}',
        key='--dtype',
        allowed='float32 or bfloat16',
      )
    if bad:
      on_bad([indices[i] for i in bad], NOT_FINITE)
      good = [i for i in range(len(indices)) if i not in bad]
      indices = [indices[i] for i in good]
      images = images[np.asarray(good, int)]
    if indices:
      yield indices, _finished(images, settings)


def _one_behind(items):
  """The same items, each delayed until the next one is produced."""
  waiting, error = [], None
  while error is None:
    try:
      waiting.append(next(items))
    except StopIteration:
      break
    except Exception as e:  # noqa: BLE001  Raised after the item before it.
      error = e
    if len(waiting) == 2:
      yield waiting.pop(0)
  yield from waiting
  if error is not None:
    raise error


def _not_finite(images):
  """Places of the images with NaN; waits for them."""
  if not jnp.issubdtype(images.dtype, jnp.floating):
    return []
  return np.flatnonzero(~np.asarray(decoding.are_finite(images))).tolist()


def _finished(images, settings):
  """The images in the output type of the settings."""
  floats = jnp.issubdtype(images.dtype, jnp.floating)
  if floats and settings.get('output_type', 'uint8') == 'uint8':
    return decoding.to_uint8(images)
  return images


def _drawn(pipe, requests, batch_size, wanted, on_bad, settings):
  """Yields (indices, images), with fractions for 8 bits, to find NaN."""
  size, too_big = min(batch_size, len(requests)), {}
  if settings.get('output_type', 'uint8') == 'uint8':
    settings = {**settings, 'output_type': 'float'}
  for indices in plan(requests, size):
    shape = requests[indices[0]].height, requests[indices[0]].width
    if shape in too_big or not (wanted is None or wanted & set(indices)):
      continue
    try:
      indices, images = _draw_readable(
        pipe, requests, indices, size, on_bad, settings
      )
    except RuntimeError as e:
      if not is_out_of_memory(str(e)):
        raise
      too_big[shape] = e
      continue
    if indices:
      yield indices, images[: len(indices)]
  for error in too_big.values():
    raise error


def _draw_readable(pipe, requests, indices, size, on_bad, settings):
  """(indices, images) of a batch without requests that cannot be tokenized."""
  while indices:
    try:
      return indices, _draw(
        pipe, [requests[i] for i in indices], size, settings
      )
    except TextError as e:
      bad = [
        i
        for i in indices
        if {requests[i].prompt, requests[i].negative_prompt} & set(e.prompts)
      ]
      if on_bad is None or not bad:
        raise
      on_bad(bad, str(e))
      indices = [i for i in indices if i not in bad]
  return [], None


def _draw(pipe, batch, size, settings):
  batch = batch + batch[-1:] * (size - len(batch))
  return pipe.draw(
    [r.prompt for r in batch],
    seed=[r.seed for r in batch],
    numbers=[r.number for r in batch],
    height=batch[0].height,
    width=batch[0].width,
    negative_prompt=[r.negative_prompt for r in batch],
    **{**settings, **batch[0].settings(), **_pictures(batch)},
  )


def _pictures(batch):
  """Images and masks of a batch, and control images: of each net, a list."""
  first = batch[0].settings()
  own = {
    key: [getattr(r, key) for r in batch]
    for key in ('image', 'mask')
    if key in first and batch[0].padding_mask_crop is None
  }
  return own | _control(batch)


def _control(batch):
  """Control images of a batch: of each net, one for each prompt."""
  if batch[0].control_image is None:
    return {}
  of_nets = [list(x) for x in zip(*(r.control_image for r in batch))]
  return {'control_image': of_nets[0] if len(of_nets) == 1 else of_nets}
