"""Small pictures of unfinished latents while a request is sampled.

A preview is a decode of the whole batch by the program of the final decode, so
that it compiles nothing more. There are few, and none while they would take
more than a quarter of the time: a decoder of large pictures gives none.
"""

from collections.abc import Callable
import io
import time

import numpy as np
from PIL import Image

from sana_jax.inference import decoding
from sana_jax.typing import Array

SIDE = 256  # Pixels at most.
_SHARE = 0.25  # Part of a request's time, once the cost of a preview is known.
_QUALITY = 80
_SHAPES = 1000  # Of which the cost is kept.


def steps_of(steps: int, most: int) -> set[int]:
  """Steps after which a preview is due, evenly spread, never the last."""
  return {round(k * steps / (most + 1)) for k in range(1, most + 1)} - {
    0,
    steps,
  }


class Previewer:
  """Previews of all requests of a server; `watch` is of one request.

  Args:
    most: previews of a request; 0 for none.
  """

  def __init__(self, pipe, most: int):
    self._pipe, self._most = pipe, most
    # Seconds of a preview by shape; None after the first, which may compile.
    self._seconds: dict[tuple[int, ...], float | None] = {}

  def watch(
    self,
    steps: int,
    size: tuple[int, int],
    show: Callable[[int, list[bytes]], None],
  ) -> Callable[[int, Callable[[], Array]], None] | None:
    """An `on_estimate` for `Pipeline.draw`, None without previews.

    Args:
      size: height and width of the pictures.
      show: called with the steps done and JPEG files of the pictures.
    """
    due, start, spent = steps_of(steps, self._most), time.monotonic(), 0.0
    if not due:
      return None

    def on_estimate(done, estimate):
      nonlocal spent
      now = time.monotonic()
      if done not in due:
        return
      latents = estimate()
      key = (*latents.shape, *size)
      known = self._seconds.get(key)
      if known is not None and spent + known > _SHARE * (now - start):
        return
      images = self._pipe.decode(latents, size)
      show(done, [_jpeg(x) for x in np.asarray(decoding.to_uint8(images))])
      seconds = time.monotonic() - now
      spent += seconds
      self._note(key, seconds)

    return on_estimate

  def _note(self, key, seconds):
    """Keeps the least seconds, as other work may delay a preview."""
    if key not in self._seconds:
      if len(self._seconds) >= _SHAPES:
        self._seconds.clear()
      self._seconds[key] = None
    else:
      self._seconds[key] = min(seconds, self._seconds[key] or seconds)


def _jpeg(pixels):
  image = Image.fromarray(pixels)
  image.thumbnail((SIDE, SIDE))
  out = io.BytesIO()
  image.save(out, 'jpeg', quality=_QUALITY)
  return out.getvalue()
