"""Limits of the web demo, and the pictures of one request.

The page (page.py) has widgets with the same bounds; every request is still
checked here, since it may come from another client.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
import threading
import time
from typing import Any, NamedTuple

import numpy as np

from sana_jax.diffusion import samplers
from sana_jax.errors import explain_out_of_memory, UserError
from sana_jax.inference import (
  batches,
  demo_adapters,
  demo_control,
  editing,
  few_steps,
  images,
  texts,
  uploads,
)
from sana_jax.inference.batches import Request
from sana_jax.inference.gallery import about, slug
from sana_jax.inference.request_queue import Stopped
from sana_jax.inference.request_values import (
  is_number,
  number_problems,
  problem,
  text_problems,
)
from sana_jax.printable import counted

RATIOS = ('1:1', '4:3', '3:4', '3:2', '2:3', '16:9', '9:16', '2:1', '1:2')
_SEEDS = 2**31 - 1
_GUIDANCE = 100.0
_BLUR = 100  # Pixels.
_ADAPTER = 'lora.'  # Start of the key of an adapter's weight.


@dataclasses.dataclass(frozen=True)
class Limits:
  """Upper limits of a request."""

  size_px: int  # Largest side.
  steps: int = 50
  images: int = 4
  previews: int = 4


class DrawRequest(NamedTuple):
  """A request from any client, with values of any type."""

  prompt: Any
  negative_prompt: Any
  width: Any
  height: Any
  steps: Any
  guidance_scale: Any
  seed: Any
  num_images: Any
  sampler: Any
  image: Any = ''  # As uploads.decoded has it.
  mask: Any = ''
  strength: Any = None  # Of these two; None for the usual one.
  mask_blur: Any = 0
  control_image: Any = ''  # As `image`, for the ControlNet.
  control_annotator: Any = ''
  control_scale: Any = 1.0
  control_start: Any = 0.0
  control_end: Any = 1.0
  lora: Any = None  # Weights by name; None for those of the start.

  @property
  def evaluations(self) -> int:
    """Steps that its pictures take."""
    strength = self.strength if self.image else None
    return few_steps.evaluations(self.sampler, self.steps, strength)


CONTROL = tuple(x for x in DrawRequest._fields if x.startswith('control_'))
FILES = ('image', 'mask', 'control_image')  # Keys of files, of megabytes.


class File(NamedTuple):
  """A PNG with its settings as metadata."""

  name: str
  caption: str
  content: bytes


class Drawn(NamedTuple):
  """Pictures of a request, a short report, and notes on its prompt."""

  files: list[File]
  report: str
  notes: list[str]


def sizes(pipe, limits: Limits) -> dict[str, tuple[int, int]]:
  """(width, height) by ratio, near the model's default area."""
  found = {}
  for ratio in RATIOS:
    width, height = map(int, ratio.split(':'))
    wanted = width / height
    size = pipe.size_of_ratio(wanted)[::-1]
    off = abs(math.log(size[0] / size[1] / wanted))
    # A small model has one size for several ratios: the nearest is used.
    if max(size) <= limits.size_px and (
      size not in found or off < found[size][1]
    ):
      found[size] = ratio, off
  return {ratio: size for size, (ratio, _) in found.items()}


def keys(pipe) -> list[str]:
  """Names of the page's values: an adapter's weight is lora.NAME.

  Those of a ControlNet are omitted if there is none.
  """
  unused = ('lora',) if pipe.controlnets else ('lora', *CONTROL)
  plain = [key for key in DrawRequest._fields if key not in unused]
  return plain + [f'{_ADAPTER}{name}' for name in demo_adapters.own(pipe)]


def of_values(values: Mapping[str, Any]) -> DrawRequest:
  """A request of single values by `keys`, not yet checked."""
  weights = {
    key.removeprefix(_ADAPTER): value
    for key, value in values.items()
    if key.startswith(_ADAPTER)
  }
  others = {k: v for k, v in values.items() if not k.startswith(_ADAPTER)}
  return DrawRequest(**others, lora=weights or None)


def check(pipe, request: DrawRequest, limits: Limits) -> DrawRequest:
  """The request with values of the right types.

  Raises UserError with all problems.
  """
  problems = [
    *text_problems('prompt', request.prompt, needed=True),
    *text_problems('negative_prompt', request.negative_prompt),
  ]
  least = min(pipe.autoencoder.module.spec.side, limits.size_px)
  for key, low, high in (
    ('width', least, limits.size_px),
    ('height', least, limits.size_px),
    ('steps', 1, limits.steps),
    ('seed', 0, _SEEDS),
    ('num_images', 1, limits.images),
  ):
    value = getattr(request, key)
    if not is_number(value) or value != value // 1 or not low <= value <= high:
      problems.append(
        problem(key, value, f'a whole number from {low} to {high}')
      )
    else:
      request = request._replace(**{key: int(value)})
  scale = request.guidance_scale
  problems += number_problems('guidance_scale', scale, 0, _GUIDANCE)
  if request.sampler not in samplers.NAMES:
    problems.append(problem('sampler', request.sampler, samplers.NAMES))
  problems += demo_adapters.problems(pipe, request.lora)
  problems += _edit_problems(request, limits)
  problems += demo_control.problems(pipe, request, limits.size_px)
  if problems:
    first = problems[0]
    raise UserError(
      ' '.join(map(str, problems)),
      key=first.key,
      value=first.value,
      allowed=first.allowed,
    )
  if not request.image:
    pipe.trained_size(request.height, request.width)
  weights = demo_adapters.completed(pipe, request.lora)
  return request._replace(guidance_scale=float(scale), lora=weights)


def draw(
  pipe,
  request: DrawRequest,
  limits: Limits,
  model: str,
  **callbacks: Callable | None,
) -> list[File]:
  """The pictures that `sana-jax sample` draws for the same request.

  Raises UserError for an invalid request, before any work, and if the device is
  out of memory.

  Args:
    callbacks: on_step and on_estimate of `Pipeline.draw`.
  """
  request = check(pipe, request, limits)
  settings = {
    key: getattr(request, key) for key in ('steps', 'guidance_scale', 'sampler')
  }
  pipe = demo_adapters.weighted(pipe, request.lora)
  pipe = demo_control.with_or_without(pipe, request)
  edit, more = _edit(request, limits)
  edit |= demo_control.arguments(request, limits.size_px)
  more |= demo_control.about(request) | demo_adapters.about(request.lora)
  requests = [
    Request(
      request.prompt,
      request.seed,
      k,
      request.negative_prompt,
      request.height,
      request.width,
    )
    for k in range(request.num_images)
  ]
  with explain_out_of_memory('request a smaller size or fewer images.'):
    ((_, made),) = batches.generate(
      pipe, requests, len(requests), **callbacks, **settings, **edit
    )
  return [
    File(
      f'{slug(r.prompt)}-{r.seed}-{r.number}.png',
      f'seed {r.seed}, number {r.number}',
      images.encode(image, '.png', about(r, settings | more, model)),
    )
    for r, image in zip(requests, np.asarray(made))
  ]


def drawn(
  pipe,
  request: DrawRequest,
  limits: Limits,
  model: str,
  stop: threading.Event,
  on_step: Callable[[int], None] = lambda done: None,
  on_estimate: Callable[[int, Callable], None] | None = None,
) -> Drawn:
  """The pictures, a report and notes.

  Raises Stopped after the step during which `stop` is set, and the errors of
  `draw`.
  """

  def on_each(done):
    if stop.is_set():
      raise Stopped
    on_step(done)

  start = time.monotonic()
  files = draw(
    pipe, request, limits, model, on_step=on_each, on_estimate=on_estimate
  )
  seconds = time.monotonic() - start
  return Drawn(
    files,
    f'{counted(len(files), "picture")} in {seconds:.1f} s. '
    'Each PNG holds its prompt, seed and settings.',
    [
      *texts.notes(pipe, [request.prompt, request.negative_prompt]),
      *few_steps.notes(
        pipe.transformer.module,
        request.sampler,
        request.steps,
        bool(request.negative_prompt),
      ),
    ],
  )


def _edit(request, limits):
  """(arguments of Pipeline.draw for the image and the mask, their metadata)."""
  if not request.image:
    return {}, {}
  keys = [key for key in ('image', 'mask') if getattr(request, key)]
  numbers = {'strength': request.strength, 'mask_blur': request.mask_blur}
  if request.strength is None:
    del numbers['strength']
  if not request.mask:
    del numbers['mask_blur']
  files = {key: getattr(request, key) for key in keys}
  read = {k: uploads.decoded(k, x, limits.size_px) for k, x in files.items()}
  digests = {key: {'sha256': uploads.digest(x)} for key, x in files.items()}
  return read | numbers, digests | numbers


def _edit_problems(request, limits):
  """Errors of the image, the mask and their numbers."""
  problems = []
  for key, most in (('strength', 1), ('mask_blur', _BLUR)):
    value = getattr(request, key)
    if key == 'strength' and value is None:
      continue
    problems += number_problems(key, value, 0, most)
  if not problems:
    try:
      editing.opened(_edit(request, limits)[0])
    except UserError as e:
      problems.append(e)
  if request.mask and not request.image:
    problems.append(
      UserError('mask is given, which needs an image.', key='mask')
    )
  return problems
