"""Parity of DC-AE with diffusers' AutoencoderDC, by part and as a whole."""

from collections.abc import Mapping
import functools
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from sana_jax.models.autoencoders.dc_ae import DCAE, SIZES
from sana_jax.tools.parity import references
from sana_jax.tools.parity.dc_ae_parts import LINEAR, Part, PARTS, QUADRATIC
from sana_jax.tools.parity.ledger import (
  bfloat16,
  Case,
  MODULE,
  relative_error,
)
from sana_jax.typing import DType, PyTree
from sana_jax.weights import dc_ae as maps
from sana_jax.weights import table

AREA = 'dc_ae'
# Published structures; models of one structure differ only in weights.
PUBLISHED = {
  'f32c32 (SANA 1.0 and 1.1)': 'sana',
  'f32c32 (SANA, lite)': 'lite',
  'f32c32 (in and mix)': 'mix',
  'f64c128 (in and mix)': 'f64',
  'f128c512 (in and mix)': 'f128',
}
_NAMES = {
  'sana': 'dc_ae_f32c32_sana',
  'lite': 'dc_ae_lite_f32c32_sana',
  'mix': 'dc_ae_f32c32_mix',
  'f64': 'dc_ae_f64c128_mix',
  'f128': 'dc_ae_f128c512_mix',
}
_VIT = 'EfficientViTBlock'
# Unpublished variants of AutoencoderDC, with three stages.
_UNPUBLISHED = {
  'several': dict(
    encoder_blocks=('ResBlock', _VIT, _VIT),
    encoder_depths=(0, 1, 1),
    decoder_depths=(0, 1, 2),
    encoder_scales=((), (3, 5), (3,)),
    decoder_scales=((), (), (5, 3)),
    decoder_norms=('batch_norm',) * 3,
    encoder_out_shortcut=False,
    decoder_in_shortcut=False,
  ),
  'plain': dict(
    encoder_blocks=('ResBlock',) * 3,
    decoder_blocks=('ResBlock',) * 3,
    encoder_scales=((),) * 3,
    decoder_scales=((),) * 3,
    downsample='pixel_unshuffle',
    upsample='pixel_shuffle',
  ),
}
_OPTIONS = {
  'several scales, batch norm, no shortcuts': 'several',
  'ResBlocks only': 'plain',
}
_METHODS = 'encode', 'decode'


def cases() -> list[Case]:
  """Cases of parts, then of whole models, so that a fault is localised."""
  return [*_parts(), *_small(), *_rounded(), *_published()]


def _parts():
  return [
    *(_tiny(what, measure_part, part=part) for what, part in PARTS.items()),
    *(
      _wide(what, measure_part, part=PARTS[what], positions=positions)
      for what, positions in (
        ('ResBlock, SiLU, RMS norm', QUADRATIC),
        ('linear attention, scale 5', (6, 6)),  # More than 32, as heads are.
        ('quadratic attention, scale 5', LINEAR),
        ('GLUMBConv', LINEAR),
        ('down, strided', QUADRATIC),
        ('up, nearest', QUADRATIC),
      )
    ),
  ]


def _small():
  """Cases of narrow whole models with both kinds of attention."""
  return [
    *(
      _tiny(f'{m}, {what}', measure_whole, structure=s, method=m)
      for what, s in (PUBLISHED | _OPTIONS).items()
      for m in _METHODS
    ),
    *(
      _tiny(
        f'{m}, quadratic attention, {what}',
        measure_whole,
        structure=s,
        method=m,
        positions=QUADRATIC,
      )
      for what, s in PUBLISHED.items()
      if s in ('sana', 'f128')
      for m in _METHODS
    ),
  ]


def _rounded():
  """Cases of whole models in bfloat16."""
  return [
    _wide(
      f'{m}, {what}',
      measure_whole,
      structure=s,
      method=m,
      positions=(1, 2) if s == 'f128' else (2, 2),
      quick=s in ('sana', 'mix'),  # The others have the same blocks.
    )
    for what, s in PUBLISHED.items()
    for m in _METHODS
  ]


def _published():
  """Cases of published sizes."""
  first, *others = PUBLISHED.items()
  return [
    *(
      _full(what, '256 px', jnp.float32, MODULE, structure=s, method=m)
      for what, s in others
      for m in _METHODS
    ),
    *(
      _full(first[0], '512 px', dtype, bound, structure=first[1], method=m)
      for m in _METHODS
      for dtype, bound in ((jnp.float32, MODULE), (jnp.bfloat16, 0.019))
    ),
  ]


def _tiny(what, measure, **how):
  measure = functools.partial(measure, **how)
  return Case(AREA, what, 'tiny', 'float32', MODULE, measure)


def _wide(what, measure, quick=True, **how):
  measure = functools.partial(measure, width=32, dtype=jnp.bfloat16, **how)
  return Case(AREA, what, 'tiny', 'bfloat16', 0.019, measure, quick)


def _full(what, size, dtype, bound, *, structure, method):
  measure = functools.partial(
    measure_full,
    dtype=dtype,
    structure=structure,
    method=method,
    pixels=int(size.removesuffix(' px')),
  )
  return Case(
    AREA,
    f'{method}, {what}',
    size,
    jnp.dtype(dtype).name,
    bound,
    measure,
    quick=False,
  )


def fields(structure: str, width: int) -> dict[str, Any]:
  """Fields of a `DCAE` of this structure, with fewer blocks and narrower.

  `width`, instead of 128, is that of the first stage and of the heads.
  """
  if structure in _UNPUBLISHED:
    whole = fields('sana', width)
    return {
      k: v[-3:] if isinstance(v, tuple) else v for k, v in whole.items()
    } | _UNPUBLISHED[structure]
  small = dict(SIZES[_NAMES[structure]], head_dim=width)
  for side in ('encoder', 'decoder'):
    small[f'{side}_widths'] = tuple(
      w * width // 128 for w in small[f'{side}_widths']
    )
    *depths, last = small[f'{side}_depths']
    small[f'{side}_depths'] = (*(min(n, 1) for n in depths), min(last, 2))
  return small | dict(
    latent_channels=small.get('latent_channels', 32) * width // 128
  )


@torch.no_grad()
def make(fields: Mapping[str, Any], seed: int) -> diffusers.AutoencoderDC:
  """diffusers' model with random norms and statistics."""
  torch.manual_seed(seed)
  model = diffusers.AutoencoderDC.from_config(maps.diffusers_config(fields))
  for module in model.modules():
    if 'Norm' not in type(module).__name__:
      continue
    module.weight.uniform_(0.5, 1.5)
    module.bias.normal_(std=0.2)
    if isinstance(module, torch.nn.BatchNorm2d):
      module.running_mean.normal_(std=0.2)
      module.running_var.uniform_(0.05, 0.5)
  return model.eval()


@functools.cache
def shapes(module: DCAE) -> PyTree:
  side = 2 * module.compression
  images = jax.ShapeDtypeStruct(
    (1, side, side, module.in_channels), jnp.float32
  )
  return jax.eval_shape(module.init, jax.random.key(0), images)


def converted(config, tensors, dtype: DType) -> tuple[DCAE, PyTree]:
  """sana_jax's model with a reference's weights, in `dtype`."""
  module = DCAE(**maps.fields_from_diffusers(config), dtype=dtype)
  return module, table.load(maps.VARIABLES, tensors, shapes(module), dtype)


def measure_part(
  seed: int,
  part: Part,
  positions: tuple[int, int] | None = None,
  width: int = 8,
  dtype: DType = jnp.float32,
):
  """Error of a part, on its inputs inside the whole model."""
  theirs = make(fields(part.structure, width), seed)
  module, variables = converted(
    theirs.config, references.weights(theirs), dtype
  )
  side = part.name.partition('.')[0]
  given = (
    (3, module.compression)
    if side == 'encoder'
    else (module.latent_channels, 1)
  )
  x = torch.from_numpy(_draw(seed, positions or part.positions, *given))
  call = references.record(
    theirs, [part.name], lambda: getattr(theirs, side)(x)
  )[part.name]
  x = call.tensors(dtype)[0]
  x = x if part.channels_last else references.channels_last(x)
  got = references.apply(
    part.make(module, dtype), _subtree(variables, part.path), x
  )
  got = got if part.channels_last else references.channels_first(got)
  want = references.as_array(call.output)
  if dtype == jnp.float32:
    return relative_error(got, want)
  return bfloat16(AREA, got, references.as_array(call.in_bfloat16()), want)


def measure_whole(
  seed: int,
  structure: str,
  method: str,
  positions: tuple[int, int] = LINEAR,
  width: int = 8,
  dtype: DType = jnp.float32,
):
  """Error of encoding or decoding two images with this many latents."""
  return _compare(fields(structure, width), seed, method, positions, dtype, 2)


def measure_full(
  seed: int, structure: str, method: str, pixels: int, dtype: DType
):
  """Error of encoding or decoding a square image, at a published structure."""
  config = SIZES[_NAMES[structure]]
  positions = (pixels >> (len(config['encoder_widths']) - 1),) * 2
  return _compare(config, seed, method, positions, dtype, 1)


def _compare(config, seed, method, positions, dtype, images):
  encoding = method == 'encode'
  compression = 2 ** (len(config['encoder_widths']) - 1)
  given = (
    (3, compression) if encoding else (config.get('latent_channels', 32), 1)
  )
  x = _draw(seed, positions, *given, images)

  def theirs(model):
    out = getattr(model, method)(
      torch.from_numpy(x).to(model.dtype), return_dict=False
    )[0]
    return references.channels_last(references.as_array(out))

  def ours(tensors):
    module, variables = converted(maps.diffusers_config(config), tensors, dtype)
    return lambda: references.apply(
      module, variables, references.channels_last(x), method=method
    )

  return references.compare(
    AREA, dtype, lambda: make(config, seed), theirs, ours
  )


def _draw(seed, positions, channels, compression, images=2):
  """Latents, or images of this compression in [-1, 1], [b c y x]."""
  rng = np.random.default_rng(seed)
  size = [n * compression for n in positions]
  if compression > 1:
    return rng.uniform(-1, 1, (images, channels, *size)).astype(np.float32)
  return rng.normal(size=(images, channels, *size)).astype(np.float32)


def _subtree(variables, path):
  """Subtree of every collection at a path."""
  out = {}
  for collection, tree in variables.items():
    for name in path.split('/'):
      tree = tree.get(name, {})
    out[collection] = tree
  return out
