"""Arguments of the pipeline: checks and conversions."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax import fields
from sana_jax.diffusion import samplers
from sana_jax.diffusion.guidance import Guidance
from sana_jax.errors import UserError
from sana_jax.inference import editing, few_steps, texts
from sana_jax.inference.conventions import Convention
from sana_jax.inference.strip_decoding import Strips
from sana_jax.inference.tiling import Tiles
from sana_jax.typing import DType

OUTPUT_TYPES = ('uint8', 'float', 'latent')
_DEFAULTS = {'steps': 20, 'guidance_scale': 4.5}
_SPRINT = {'steps': 2, 'guidance_scale': 4.5}
_CALL = {
  'height': fields.integer(1, 2**15),
  'width': fields.integer(1, 2**15),
  'steps': fields.integer(1, 1000),
  'num_images': fields.integer(1, 2**20),
  'flow_shift': fields.number(1e-3, 1e3),
  'sampler': fields.text(100),
  **dict.fromkeys(
    ('on_step', 'on_estimate'),
    fields.Field('a function', lambda f: f is None or callable(f)),
  ),
  'output_type': fields.choice(*OUTPUT_TYPES),
  'use_resolution_binning': fields.FLAG,
  **editing.FIELDS,
}


def default(name: str, recommended: Mapping[str, Any], sprint: bool) -> Any:
  """A model's value of a setting: its recommendation, else its kind's."""
  return recommended.get(name, (_SPRINT if sprint else _DEFAULTS)[name])


def guidance_of(
  scale: float, options: Guidance | Mapping[str, Any] | None
) -> Guidance:
  """Guidance with all options; UserError for an unknown one."""
  if isinstance(options, Guidance):
    return options
  allowed = [f.name for f in dataclasses.fields(Guidance) if f.name != 'scale']
  if unknown := sorted(set(options or {}) - set(allowed)):
    raise UserError(
      f'guidance has the option {unknown[0]!r}; allowed are '
      f'{", ".join(allowed)}.',
      key='guidance',
      value=unknown[0],
      allowed=allowed,
    )
  return Guidance(scale, **(options or {}))


def parts_of(
  parts: Strips | Tiles | str | None, compression: int
) -> Strips | Tiles | None:
  """Way of splitting a decode, by name; UserError for an invalid one."""
  if isinstance(parts, str):
    kinds = {'strips': Strips, 'tiles': Tiles, 'whole': lambda: None}
    if parts not in kinds:
      raise UserError(
        f'parts is {parts!r}; allowed are {", ".join(kinds)}.',
        key='parts',
        value=parts,
        allowed=tuple(kinds),
      )
    parts = kinds[parts]()
  if parts is not None:
    parts.latent(compression)
  return parts


class Call(NamedTuple):
  """Arguments of `Pipeline.draw`, checked; `guidance` has its scale."""

  prompts: list[str]
  height: int
  width: int
  steps: int
  guidance: Guidance
  negative_prompt: str | Sequence[str] | None
  num_images: int
  seed: int | Sequence[int]
  numbers: Sequence[int] | None
  latents: Any
  sampler: str
  output_type: str
  use_resolution_binning: bool
  instruction: str | Sequence[str] | None
  flow_shift: float | int
  times: Sequence[float | int] | None
  image: Any
  strength: float | None
  mask: Any
  mask_blur: float
  padding_mask_crop: int | None
  control_image: Any
  control: Mapping[str, Any] | None
  convention: Convention
  parts: Strips | Tiles | str | None
  on_step: Callable[[int], None] | None
  on_estimate: Callable[[int, Callable], None] | None


def call(given: Mapping[str, Any], own: Mapping[str, Any]) -> Call:
  """A checked call, with the model's own values in place of None.

  Raises UserError for a value that is invalid for every model.
  """
  given = {**given, **editing.opened(given)}
  own = {**own, **editing.own_size(given)}
  values = {
    name: own.get(name) if value is None else fields.plain(value)
    for name, value in given.items()
  }
  fields.check('The call', values, _CALL)
  values['guidance'] = guidance_of(
    values.pop('guidance_scale'), values['guidance']
  )
  values['sampler'] = samplers.named(values['sampler'])
  values |= few_steps.resolved(given, values)
  values['prompts'] = texts.texts_of('prompt', values['prompts'])
  return Call(**values)


def check_output_type(value: Any) -> None:
  """Raises UserError unless the output type of a call is allowed."""
  fields.check(
    'The call',
    {'output_type': value},
    {'output_type': fields.choice('pil', *OUTPUT_TYPES)},
  )


def check_latents(latents: Any, shape: tuple[int, ...]) -> None:
  """Raises UserError unless the latents of a call have this shape."""
  if np.shape(latents) != shape:
    raise UserError(
      f'latents has the shape {np.shape(latents)}; {shape} is needed.',
      key='latents',
      value=np.shape(latents),
      allowed=str(shape),
    )


def dtype_of(dtype: DType | None) -> DType:
  """The dtype of a model, by name; UserError for an unsupported one.

  None is float32 on a CPU, whose bfloat16 is slow, and bfloat16 elsewhere.
  """
  if dtype is None:
    dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  names = ('float32', 'bfloat16', 'float16')
  try:
    name = jnp.dtype(dtype).name
  except TypeError:
    name = str(dtype).removeprefix('torch.')
  if name not in names:
    raise UserError(
      f'dtype is {name}; allowed are {", ".join(names)}.',
      key='dtype',
      value=name,
      allowed=names,
    )
  return jnp.dtype(name)
