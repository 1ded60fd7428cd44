"""Parity of the transformer with diffusers' SanaTransformer2DModel, by part."""

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from sana_jax.config import SANA_SIZES
from sana_jax.models import sana as models
from sana_jax.tools.parity import references
from sana_jax.tools.parity.ledger import (
  averaged,
  bfloat16,
  Case,
  MODULE,
  relative_error,
)
from sana_jax.tools.parity.sana_parts import Part, PARTS
from sana_jax.typing import DType, PyTree
from sana_jax.weights import sana as maps
from sana_jax.weights import table

AREA = 'sana'
TINY = dict(
  in_channels=4,
  out_channels=4,
  num_attention_heads=3,
  attention_head_dim=8,
  num_layers=3,
  num_cross_attention_heads=2,
  cross_attention_head_dim=12,
  cross_attention_dim=24,
  caption_channels=10,
  sample_size=8,
)
NORM = dict(qk_norm='rms_norm_across_heads')
VARIANTS = {
  '': {},
  'QK-norm': NORM,
  'positions': dict(interpolation_scale=2.0),
  'guidance': dict(guidance_embeds=True, **NORM),
  'patches of 2': dict(patch_size=2, interpolation_scale=1.0),
  'affine norm and biases': dict(
    norm_elementwise_affine=True, attention_bias=True
  ),
  'other widths': dict(out_channels=6, mlp_ratio=3.0),
}
# For bfloat16. Heads of 32: with few dimensions, a query may have no positive
# entry, and rounding then decides between an average of values and zero.
_WIDE = dict(
  num_attention_heads=4,
  attention_head_dim=32,
  num_cross_attention_heads=4,
  cross_attention_head_dim=32,
  cross_attention_dim=128,
)
MASKS = {
  'partial': [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
  'all ones': [[1] * 5] * 2,
  'all zeros': [[0] * 5] * 2,
}
FULL = (
  ('sana_600m_1024', '0.6B at 1024 px', 32),
  ('sana_1600m_512', '1.6B at 512 px', 16),
)
BFLOAT16 = jnp.bfloat16


class Inputs(NamedTuple):
  """Inputs of a call, as arrays with channels last."""

  latents: np.ndarray
  timesteps: np.ndarray
  text: np.ndarray
  mask: np.ndarray
  guidance: np.ndarray | None

  @classmethod
  def draw(cls, seed, config, mask, size=(6, 8)):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    mask = np.array(mask, bool)
    images, words = mask.shape
    guidance = rng.uniform(0.1, 0.5, images).astype(np.float32)
    return cls(
      draw(images, *size, config['in_channels']),
      rng.uniform(0, 1000, images).astype(np.float32),
      draw(images, words, config['caption_channels']),
      mask,
      guidance if config.get('guidance_embeds') else None,
    )

  def run(self, model: torch.nn.Module) -> np.ndarray:
    """The reference's velocity, with channels last."""
    tensor = lambda x: torch.from_numpy(x).to(model.dtype)
    guidance = self.guidance
    out = model(
      tensor(references.channels_first(self.latents)),
      tensor(self.text),
      torch.from_numpy(self.timesteps),
      guidance=None if guidance is None else torch.from_numpy(guidance),
      encoder_attention_mask=tensor(self.mask),
      return_dict=False,
    )[0]
    return references.channels_last(references.as_array(out))


def cases() -> list[Case]:
  """Cases of parts, then of whole models, so that a fault is localised."""
  return [*_part_cases(), *_whole_cases(), *_full_cases()]


def _part_cases():
  out = []
  for what, part in PARTS.items():
    out.append(
      Case(
        AREA,
        what,
        'tiny',
        'float32',
        MODULE,
        functools.partial(measure_part, VARIANTS[part.variant], part),
        against=part.against,
      )
    )
  for what in (
    'linear attention',
    'cross-attention',
    'Mix-FFN',
    'first block',
    'last block, QK-norm',
  ):
    part = PARTS[what]
    config = VARIANTS[part.variant] | _WIDE
    out.append(
      Case(
        AREA,
        what,
        'tiny',
        'bfloat16',
        0.018,
        functools.partial(measure_part, config, part, dtype=BFLOAT16),
      )
    )
  return out


def _whole_cases():
  out = []
  name = lambda *words: ', '.join(['velocity', *filter(None, words)])
  for variant, config in VARIANTS.items():
    out.append(
      Case(
        AREA,
        name(variant),
        'tiny',
        'float32',
        MODULE,
        functools.partial(measure_whole, config),
      )
    )
  for mask in ('all ones', 'all zeros'):
    out.append(
      Case(
        AREA,
        name(f'mask {mask}'),
        'tiny',
        'float32',
        MODULE,
        functools.partial(measure_whole, {}, mask=MASKS[mask]),
      )
    )
  for variant in ('', 'QK-norm'):
    out.append(
      Case(
        AREA,
        name(variant, 'text projected once'),
        'tiny',
        'float32',
        MODULE,
        functools.partial(measure_whole, VARIANTS[variant], projected=True),
      )
    )
  for variant in ('', 'QK-norm', 'guidance'):
    config = VARIANTS[variant] | _WIDE
    out.append(
      Case(
        AREA,
        name(variant),
        'tiny',
        'bfloat16',
        0.018,
        averaged(functools.partial(measure_whole, config, dtype=BFLOAT16)),
      )
    )
  return out


def _full_cases():
  out = []
  mask = np.arange(300) < np.array([[40]])
  for size, what, side in FULL:
    module = models.Sana(**SANA_SIZES[size])
    fields = {f: getattr(module, f) for f in module.__dataclass_fields__}
    config = maps.diffusers_config(fields)
    for dtype in (jnp.float32, BFLOAT16):
      out.append(
        Case(
          AREA,
          'velocity',
          what,
          jnp.dtype(dtype).name,
          MODULE if dtype == jnp.float32 else 0.018,
          functools.partial(
            measure_whole, config, mask=mask, dtype=dtype, side=side
          ),
          quick=False,
        )
      )
  return out


def make(config: Mapping[str, Any], seed: int) -> torch.nn.Module:
  """diffusers' model with random weights."""
  torch.manual_seed(seed)
  return references.randomise(
    diffusers.SanaTransformer2DModel.from_config(config)
  )


@functools.cache
def shapes(module: models.Sana) -> PyTree:
  p = module.patch_size
  return jax.eval_shape(
    module.init,
    jax.random.key(0),
    jnp.zeros((1, p, p, module.in_channels)),
    jnp.zeros(1),
    jnp.zeros((1, 5, module.caption_channels)),
    guidance=jnp.zeros(1),
  )['params']


def converted(config, tensors, dtype) -> tuple[models.Sana, PyTree]:
  """sana_jax's model with a reference's weights, in `dtype`."""
  fields = maps.fields_from_diffusers(config)
  module = models.Sana(**fields, dtype=dtype)
  rules = maps.rules(fields['guidance_embeds'])
  return module, table.load(rules, tensors, shapes(module), dtype)


def measure_whole(
  config: Mapping[str, Any],
  seed: int,
  mask=MASKS['partial'],
  dtype: DType = jnp.float32,
  side: int | None = None,
  projected: bool = False,
):
  """Error of the whole model, with latents of 6 x 8, or `side` squared.

  With `projected`, the text is projected beforehand, as in samplers.
  """
  config = {**TINY, **config}
  size = (side, side) if side else (6, 8)
  inputs = Inputs.draw(seed, config, mask, size)

  def ours(tensors):
    module, params = converted(config, tensors, dtype)
    given = (
      inputs._replace(text=_projected(module, params, inputs.text))
      if projected
      else inputs
    )
    return lambda: references.apply(module, {'params': params}, *given)

  return references.compare(
    AREA, dtype, lambda: make(config, seed), inputs.run, ours
  )


def _projected(module, params, text):
  return references.apply(
    module, {'params': params}, text, method='project_text'
  )


def measure_part(
  config: Mapping[str, Any],
  part: Part,
  seed: int,
  dtype: DType = jnp.float32,
):
  """Error of a part, on its inputs inside the whole model."""
  config = {**TINY, **config}
  theirs = make(config, seed)
  part.adjust(theirs)
  inputs = Inputs.draw(seed, config, MASKS['partial'])
  until = part.name if part.until is None else part.until
  calls = references.record(
    theirs, {part.name, until}, lambda: inputs.run(theirs)
  )
  call, want = calls[part.name], calls[until].output
  module, params = converted(config, references.weights(theirs), dtype)
  grid = tuple(n // module.patch_size for n in inputs.latents.shape[1:3])
  got = part.ours(module, params, call.tensors(dtype), grid)
  if dtype == jnp.float32:
    return relative_error(_joined(got), _joined(want))
  return bfloat16(
    AREA, _joined(got), _joined(call.in_bfloat16()), _joined(want)
  )


def _joined(outputs) -> np.ndarray:
  """One vector per image of one or several outputs."""
  outputs = outputs if isinstance(outputs, tuple) else (outputs,)
  return np.concatenate(
    [
      np.reshape(
        references.as_array(x)
        if isinstance(x, torch.Tensor)
        else np.asarray(x, np.float32),
        (x.shape[0], -1),
      )
      for x in outputs
    ],
    axis=1,
  )
