"""Arguments of the pipeline: checks and conversions."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax.numpy as jnp

from sana_jax.diffusion.guidance import Guidance
from sana_jax.errors import UserError
from sana_jax.inference.strip_decoding import Strips
from sana_jax.inference.tiling import Tiles
from sana_jax.text import encode
from sana_jax.typing import DType

OUTPUT_TYPES = ('uint8', 'float', 'latent')
# Text is padded to one of these lengths, not always to 300: padding is masked,
# so the result is the same, and small models are several times faster.
TEXT_LENGTHS = (16, 32, 64, 128, encode.LENGTH)


def text_length(tokenizer, prompts: Sequence[str], instruction: str) -> int:
  """The shortest of TEXT_LENGTHS that truncates no prompt."""
  _, mask = encode.tokenize(tokenizer, prompts, instruction=instruction)
  outside = mask.shape[1] - encode.LENGTH  # The instruction without <bos>.
  needed = int(mask.sum(axis=1).max()) - outside
  return next(n for n in TEXT_LENGTHS if n >= min(needed, encode.LENGTH))


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


def check_request(prompts, steps, num_images, output_type, flow_shift=None):
  """Raises UserError for arguments that are invalid for every model."""
  if not prompts:
    raise UserError('There is no prompt; give at least one.', key='prompts')
  if any(not isinstance(p, str) for p in prompts):
    raise UserError(
      'prompts must be a string or a list of strings.', key='prompts'
    )
  for name, value in (('steps', steps), ('num_images', num_images)):
    if int(value) != value or value < 1:
      raise UserError(
        f'{name} is {value}; it must be 1 or more.',
        key=name,
        value=value,
        allowed='1 or more',
      )
  if flow_shift is not None and not 0 < flow_shift < float('inf'):
    raise UserError(
      f'flow_shift is {flow_shift}; it must be more than 0.',
      key='flow_shift',
      value=flow_shift,
      allowed='more than 0',
    )
  check_output_type(output_type, OUTPUT_TYPES)


def check_output_type(output_type: str, allowed: Sequence[str]) -> None:
  """Raises UserError unless the output type is one of `allowed`."""
  if output_type not in allowed:
    raise UserError(
      f'output_type is {output_type!r}; allowed are {", ".join(allowed)}.',
      key='output_type',
      value=output_type,
      allowed=allowed,
    )


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


def dtype_of(dtype: DType) -> DType:
  """The dtype of a model, by name; UserError for an unsupported one."""
  names = ('float32', 'bfloat16', 'float16')
  try:
    name = jnp.dtype(dtype).name
  except TypeError:
    name = str(dtype)
  if name not in names:
    raise UserError(
      f'dtype is {name}; allowed are {", ".join(names)}.',
      key='dtype',
      value=name,
      allowed=names,
    )
  return jnp.dtype(name)
