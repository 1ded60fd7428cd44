"""Control images in requests of the demo, for its ControlNet.

A request without a control image is drawn by the model alone.
"""

from typing import Any

from sana_jax.data import annotators
from sana_jax.errors import UserError
from sana_jax.inference import hints, sizes, uploads
from sana_jax.inference.request_values import number_problems, problem

MOST_SCALE = 2.0  # Of the slider.
# How the image is used: as it is, or as the picture of an annotator.
KINDS = {
  'as it is': '',
  **{f'as a picture, by {name}': name for name in annotators.OF_IMAGES},
}
_NUMBERS = {'scale': 100, 'start': 1, 'end': 1}  # Largest values.


def problems(pipe, request, size_px: int) -> list[UserError]:
  """Errors of the control image and of how it is used."""
  found = [
    error
    for name, most in _NUMBERS.items()
    for error in number_problems(
      f'control_{name}', getattr(request, f'control_{name}'), 0, most
    )
  ]
  annotator = request.control_annotator
  if not isinstance(annotator, str) or annotator not in KINDS.values():
    allowed = ("''", *annotators.OF_IMAGES)
    found.append(problem('control_annotator', annotator, allowed))
  if request.control_image in ('', None):
    return found
  if not pipe.controlnets:
    return [_without_net()]
  try:
    if not found:
      hints.options_of(_options(request), 1)
    _fitted(pipe, request, size_px)
  except UserError as e:
    found.append(e)
  return found


def arguments(request, size_px: int) -> dict[str, Any]:
  """Arguments of Pipeline.draw for the control image; {} without one."""
  if not request.control_image:
    return {}
  return {
    'control_image': _decoded(request, size_px),
    'control': _options(request),
  }


def with_or_without(pipe, request):
  """The pipeline, without its ControlNet if there is no control image."""
  return pipe if request.control_image else pipe.replace(controlnets=())


def about(request) -> dict[str, Any]:
  """Metadata of a picture; {} without a control image."""
  if not request.control_image:
    return {}
  options = {f'control_{k}': v for k, v in _options(request).items() if v != ''}
  digest = uploads.digest(request.control_image)
  return {'control_image': {'sha256': digest}, **options}


def _options(request):
  return {
    'scale': request.control_scale,
    'start': request.control_start,
    'end': request.control_end,
    'annotator': request.control_annotator,
  }


def _decoded(request, size_px):
  return uploads.decoded('control_image', request.control_image, size_px)


def _fitted(pipe, request, size_px):
  """Raises UserError for an image that cannot be read, or of another ratio."""
  image = _decoded(request, size_px)
  shown = request.height, request.width
  if all(isinstance(side, int) and 0 < side <= size_px for side in shown):
    hints.check_ratio(image, shown, sizes.of_image(pipe, *shown, True))


def _without_net():
  return UserError(
    'control_image is given, and the demo has no ControlNet; start it with '
    '--controlnet.',
    key='control_image',
    allowed='with a ControlNet',
  )
