"""Parity of the judge NVILA: its parts, and the logits of its first token.

The towers are compared with transformers' SiglipVisionModel and
Qwen2ForCausalLM. The projector and the whole judge are compared with modules
assembled here from PyTorch's, as there is no NVILA in transformers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from sana_jax.models.nvila.scales import Scales
from sana_jax.models.qwen2 import Qwen2
from sana_jax.models.siglip import SigLIP
from sana_jax.tools.parity import nvila_reference as assembled
from sana_jax.tools.parity import references
from sana_jax.tools.parity.ledger import averaged, Case, MODULE
from sana_jax.typing import DType
from sana_jax.weights import nvila as weights
from sana_jax.weights import projector, qwen2, siglip, table

AREA = 'nvila'
QWEN2 = dict(
  vocab_size=120,
  hidden_size=32,
  intermediate_size=56,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
)
QWEN2_VARIANTS = {
  '': {},
  'tied': dict(tie_word_embeddings=True),
  'one key head': dict(num_key_value_heads=1, rms_norm_eps=1e-3),
  'a key head each': dict(num_key_value_heads=4),
  'other theta': dict(
    rope_parameters=dict(rope_type='default', rope_theta=1e6)
  ),
}
QWEN2_FULL = dict(  # Qwen2-1.5B with two layers.
  hidden_size=1536,
  intermediate_size=8960,
  num_hidden_layers=2,
  num_attention_heads=12,
  num_key_value_heads=2,
  tie_word_embeddings=True,
  rope_parameters=dict(rope_type='default', rope_theta=1e6),
)
SIGLIP = dict(
  hidden_size=24,
  intermediate_size=40,
  num_hidden_layers=4,
  num_attention_heads=3,
  image_size=28,
  patch_size=4,
  vision_use_head=False,
)
SIGLIP_FULL = dict(  # SigLIP-so400m with two layers before the last.
  hidden_size=1152,
  intermediate_size=4304,
  num_hidden_layers=3,
  num_attention_heads=16,
  image_size=448,
  patch_size=14,
  vision_use_head=False,
)
_SIGLIP, _QWEN2 = 'SigLIP, before the last layer', 'Qwen2 logits'
_FIX, _S2 = 'mlp_downsample_3x3_fix', 'mlp_downsample_3x3_s2'
# Of a judge: kind of projector, tiles of a picture, their arrangement.
JUDGES = {
  'one tile': (_FIX, 1, None),
  'tiles in a row': (_FIX, 5, None),
  'S2 of 3 scales': (_S2, 14, Scales(((1, 1), (2, 2), (3, 3)))),
  'S2 by tile': (_FIX, 11, Scales(((1, 1), (2, 2), (2, 3)), -1, True)),
  '2 x 2 patches': ('mlp_downsample_2x2_fix', 2, None),
}


def cases() -> list[Case]:
  """Cases of parts, then of the whole, so that a fault is localised."""
  part = functools.partial
  return [
    _case(_SIGLIP, 'tiny', part(measure_siglip, config=SIGLIP)),
    *(
      _case(f'projector, {kind}', 'tiny', part(measure_projector, kind=kind))
      for kind in projector.KINDS
    ),
    _case(
      f'projector, {_FIX}',
      'full width',
      part(measure_projector, kind=_FIX, widths=(1152, 1536)),
    ),
    *(
      _case(
        _named(_QWEN2, variant),
        'tiny',
        part(measure_qwen2, config=QWEN2 | changes),
      )
      for variant, changes in QWEN2_VARIANTS.items()
    ),
    *(
      _case(
        _named('first token', variant),
        'tiny',
        part(measure_judge, variant=variant),
      )
      for variant in JUDGES
    ),
    *_rounded(),
    *(
      _case(
        what,
        'full width, 2 layers',
        part(measure, config=config, dtype=dtype),
        dtype,
        quick=False,
      )
      for what, measure, config in (
        (_SIGLIP, measure_siglip, SIGLIP_FULL),
        (_QWEN2, measure_qwen2, QWEN2_FULL),
      )
      for dtype in (jnp.float32, jnp.bfloat16)
    ),
  ]


def _rounded():
  """Cases of narrow models in bfloat16."""
  return [
    _case(
      what,
      'tiny',
      averaged(
        functools.partial(measure, **given, dtype=jnp.bfloat16), draws=16
      ),
      jnp.bfloat16,
      quick=False,
    )
    for what, measure, given in (
      (_SIGLIP, measure_siglip, {'config': SIGLIP}),
      (_QWEN2, measure_qwen2, {'config': QWEN2}),
      ('first token, one tile', measure_judge, {'variant': 'one tile'}),
    )
  ]


def _named(*words):
  return ', '.join(filter(None, words))


def _case(what, size, measure, dtype=jnp.float32, quick=True):
  bound = MODULE if dtype == jnp.float32 else 0.013
  is_ours = what.startswith(('projector', 'first'))
  against = 'PyTorch' if is_ours else 'transformers'
  return Case(
    AREA, what, size, dtype.__name__, bound, measure, quick, against=against
  )


def make_siglip(config):
  """transformers' vision tower with random weights."""
  return references.randomise(
    transformers.SiglipVisionModel(
      transformers.SiglipVisionConfig(**config, attn_implementation='eager')
    )
  )


def make_qwen2(config):
  """transformers' language model with random weights."""
  return references.randomise(
    transformers.Qwen2ForCausalLM(
      transformers.Qwen2Config(**config, attn_implementation='eager')
    )
  )


def pictures(seed: int, *shape: int) -> np.ndarray:
  """Normalised pictures [*shape y x 3]."""
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def measure_siglip(seed: int, config, dtype: DType = jnp.float32):
  """Error of the features that NVILA uses."""
  torch.manual_seed(seed)
  side = config['image_size']
  images = pictures(seed, 2, side, side, 3)

  def theirs(model):
    given = torch.tensor(references.channels_first(images))
    out = model(given.to(model.dtype), output_hidden_states=True)
    return references.as_array(out.hidden_states[-2])

  def ours(tensors):
    module = SigLIP(**siglip.fields_from_transformers(config, -2), dtype=dtype)
    tensors = siglip.model_tensors(tensors, module.depth)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    params = table.load(siglip.RULES, tensors, shapes['params'], dtype)
    return lambda: references.apply(module, {'params': params}, images)

  return references.compare(
    AREA, dtype, lambda: make_siglip(config), theirs, ours
  )


def measure_qwen2(seed: int, config, dtype: DType = jnp.float32):
  """Error of the logits of all real tokens."""
  torch.manual_seed(seed)
  rng = np.random.default_rng(seed)
  lengths = np.array([37, 9, 1])
  mask = np.arange(lengths.max()) < lengths[:, None]
  vocabulary = config.get('vocab_size', 151_936)
  ids = rng.integers(vocabulary, size=mask.shape).astype(np.int32)

  def theirs(model):
    out = model(
      input_ids=torch.tensor(ids),
      attention_mask=torch.tensor(mask).long(),
      use_cache=False,
    )
    return references.as_array(out.logits)[mask]

  def ours(tensors):
    module = Qwen2(**qwen2.fields_from_transformers(config), dtype=dtype)
    tensors = qwen2.model_tensors(tensors, module.tied)
    shapes = jax.eval_shape(module.init, jax.random.key(0), ids, mask)
    params = table.load(qwen2.RULES, tensors, shapes['params'], dtype)
    return lambda: np.asarray(
      references.apply(module, {'params': params}, ids, mask)
    )[mask]

  return references.compare(
    AREA, dtype, lambda: make_qwen2(config), theirs, ours, assembled.halve
  )


def measure_projector(seed: int, kind: str, widths=(9, 16)):
  """Error of a projector on maps of 7 x 7 patches."""
  torch.manual_seed(seed)
  x = pictures(seed, 2, 7, 7, widths[0])

  def ours(tensors):
    module, rules = weights.projector_of(
      {'mm_projector_type': kind}, *widths, jnp.float32
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    params = table.load(rules, tensors, shapes['params'], jnp.float32)
    return lambda: references.apply(module, {'params': params}, x)

  return references.compare(
    AREA,
    jnp.float32,
    lambda: references.randomise(assembled.Projector(kind, *widths)),
    lambda model: references.as_array(model(torch.tensor(x))),
    ours,
  )


def measure_judge(seed: int, variant: str, dtype: DType = jnp.float32):
  """Error of the logits of the first token of a tiny judge."""
  kind, tiles, scales = JUDGES[variant]
  torch.manual_seed(seed)
  side = SIGLIP['image_size']
  images = pictures(seed, 2, tiles, side, side, 3)
  llm = QWEN2 | QWEN2_VARIANTS['tied']

  def build():
    width = SIGLIP['hidden_size'] * (len(scales.grids) if scales else 1)
    return assembled.Judge(
      make_siglip(SIGLIP),
      references.randomise(
        assembled.Projector(kind, width, llm['hidden_size'])
      ),
      make_qwen2(llm),
    )

  def ours(tensors):
    configs = {
      'vision_tower': SIGLIP,
      'mm_projector': {'mm_projector_type': kind},
      'llm': llm,
    }
    module, rules = weights.assembled(
      configs, len(scales.grids) if scales else 1, dtype
    )
    count = module.count(tiles, scales)
    ids, mask = assembled.tokens(seed, count, llm['vocab_size'])
    shapes = weights.shapes(module, len(scales.grids) if scales else 1)
    params = table.load(
      rules, weights.named(module, tensors), shapes['params'], dtype
    )
    return lambda: references.apply(
      module, {'params': params}, images, ids, mask, method=_with(scales)
    )

  return references.compare(
    AREA,
    dtype,
    build,
    lambda model: assembled.logits(model, seed, images, scales),
    ours,
    assembled.halve,
  )


@functools.cache
def _with(scales: Scales | None):
  """Method of the judge with these scales, one object for its compilation."""
  return lambda module, *args: module(*args, scales)
