"""Parity of the text encoder with transformers' Gemma2ForCausalLM, by part."""

from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from transformers.models.gemma2 import modeling_gemma2

from sana_jax.models.gemma2 import Gemma2, modules
from sana_jax.tools.parity import references
from sana_jax.tools.parity.gemma2_parts import BEYOND, LOW_CAPS, Part, PARTS
from sana_jax.tools.parity.ledger import (
  averaged,
  bfloat16,
  Case,
  MODULE,
  relative_error,
)
from sana_jax.typing import DType, PyTree
from sana_jax.weights import gemma2 as maps
from sana_jax.weights import table

AREA = 'gemma2'
TINY = dict(
  vocab_size=320,
  hidden_size=32,
  intermediate_size=56,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=12,
  query_pre_attn_scalar=9,
  sliding_window=64,
)
VARIANTS = {
  '': {},
  'beyond the sliding window': BEYOND,
  'full attention first': BEYOND
  | dict(
    layer_types=['full_attention', 'sliding_attention', 'sliding_attention']
  ),
  'low caps': LOW_CAPS,
  'one key head': dict(num_key_value_heads=1, rms_norm_eps=1e-3),
  'other theta': dict(
    rope_parameters=dict(rope_type='default', rope_theta=100.0)
  ),
}
FULL = dict(num_hidden_layers=2)  # Otherwise transformers' default, 2B.
LENGTHS = (17, 9, 1)


def cases() -> list[Case]:
  """Cases of parts, then of whole models, so that a fault is localised."""
  return [*_parts(), *_small(), *_rounded(), *_published()]


def _parts():
  part = functools.partial
  return [
    _case('rotary embedding', '4,200 positions', jnp.float32, measure_rotary),
    *(
      _case(what, 'tiny', jnp.float32, part(measure_part, part=p))
      for what, p in PARTS.items()
    ),
    *(
      _case(
        what,
        'tiny',
        jnp.bfloat16,
        averaged(part(measure_part, part=p, dtype=jnp.bfloat16)),
      )
      for what, p in PARTS.items()
      if 'cap' not in what
    ),
  ]


def _small():
  """Cases of narrow whole models, in all variants."""
  part = functools.partial
  return [
    *(
      _case(
        ', '.join(filter(None, (what, variant))),
        'tiny',
        jnp.float32,
        part(measure, changes=changes, method=method),
      )
      for variant, changes in VARIANTS.items()
      for what, method in (
        ('all hidden states', 'hidden_states'),
        ('logits', 'logits'),
      )
    ),
    *(
      _case(
        f'last hidden state, beginning read once{more}',
        'tiny',
        jnp.float32,
        part(measure_prefix, changes=changes),
      )
      for more, changes in (('', {}), (', beyond the sliding window', BEYOND))
    ),
  ]


def _rounded():
  """Cases of whole models in bfloat16."""
  return [
    _case(
      ', '.join(filter(None, ('last hidden state', variant))),
      'tiny',
      jnp.bfloat16,
      averaged(
        functools.partial(
          measure,
          changes=VARIANTS[variant] | dict(num_hidden_layers=6),
          dtype=jnp.bfloat16,
        ),
        draws=16,
      ),
    )
    for variant in ('', 'beyond the sliding window')
  ]


def _published():
  """Cases of two layers of the published width."""
  return [
    _case(
      'last hidden state',
      size,
      dtype,
      functools.partial(measure, changes=None, lengths=lengths, dtype=dtype),
      quick=False,
    )
    for size, lengths in (
      ('full width, 2 layers, 300 tokens', (300, 37)),
      ('full width, 2 layers, 4,200 tokens', (4200,)),
    )
    for dtype in (jnp.float32, jnp.bfloat16)
  ]


def _case(what, size, dtype, measure, quick=True):
  bound = MODULE if dtype == jnp.float32 else 0.013
  return Case(
    AREA,
    what,
    size,
    dtype.__name__,
    bound,
    measure,
    quick,
    against='transformers',
  )


def make(changes: Mapping[str, Any] | None, seed: int):
  """transformers' model with random weights; of published size if None."""
  torch.manual_seed(seed)
  config = FULL if changes is None else {**TINY, **changes}
  model = transformers.Gemma2ForCausalLM(
    transformers.Gemma2Config(**config, attn_implementation='eager')
  )
  return references.randomise(model)


def halve(model: torch.nn.Module):
  """Casts parameters only: `.bfloat16()` also rounds the rotary frequencies."""
  for p in model.parameters():
    p.data = p.data.bfloat16()


def tokens(seed: int, vocabulary: int, lengths=LENGTHS):
  """Token ids and their mask, padded on the right."""
  rng = np.random.default_rng(seed)
  mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
  ids = rng.integers(3, vocabulary, mask.shape)
  return np.where(mask, ids, 0).astype(np.int32), mask


@functools.cache
def shapes(module: Gemma2) -> PyTree:
  return jax.eval_shape(
    module.init,
    jax.random.key(0),
    jnp.zeros((1, 2), jnp.int32),
    jnp.ones((1, 2), bool),
  )['params']


def converted(config, tensors, dtype: DType) -> tuple[Gemma2, PyTree]:
  """sana_jax's model with a reference's weights, in `dtype`."""
  module = Gemma2(**maps.fields_from_transformers(config), dtype=dtype)
  return module, table.load(
    maps.RULES, maps.model_tensors(tensors), shapes(module), dtype
  )


def measure(
  seed: int,
  changes: Mapping[str, Any] | None,
  method: str = '__call__',
  lengths=LENGTHS,
  dtype: DType = jnp.float32,
):
  """Error of the whole model's last or all hidden states, or its logits."""
  vocabulary = 256_000 if changes is None else TINY['vocab_size']
  ids, mask = tokens(seed, vocabulary, lengths)
  config = {}

  def build():
    model = make(changes, seed)
    config.update(model.config.to_dict())
    return model

  def theirs(model):
    given = dict(
      input_ids=torch.tensor(ids),
      use_cache=False,
      attention_mask=torch.tensor(mask).long(),
    )
    if method == 'logits':
      return references.as_array(model(**given).logits)
    out = model.model(**given, output_hidden_states=method != '__call__')
    states = (out[0],) if method == '__call__' else out.hidden_states
    return np.stack([references.as_array(x) for x in states])

  def ours(tensors):
    module, params = converted(config, tensors, dtype)
    add_axis = (lambda x: x[None]) if method == '__call__' else (lambda x: x)
    return lambda: add_axis(
      references.apply(module, {'params': params}, ids, mask, method=method)
    )

  return references.compare(AREA, dtype, build, theirs, ours, halve)


def measure_part(seed: int, part: Part, dtype: DType = jnp.float32):
  """Error of a part, on its inputs inside the whole model."""
  theirs = make(part.changes, seed)
  ids, mask = tokens(seed, TINY['vocab_size'])
  call = references.record(
    theirs,
    [part.name],
    lambda: theirs(
      torch.tensor(ids),
      attention_mask=torch.tensor(mask).long(),
      use_cache=False,
    ),
  )[part.name]
  module, params = converted(
    theirs.config.to_dict(), references.weights(theirs), dtype
  )
  params = jax.tree.map(lambda x: x[part.layer], params['layers'])
  got = part.ours(module, params, call.tensors(dtype)[0], mask)
  first = lambda x: references.as_array(x[0] if isinstance(x, tuple) else x)
  want = first(call.output)
  if dtype == jnp.float32:
    return relative_error(got, want)
  return bfloat16(AREA, got, first(call.in_bfloat16()), want)


def measure_prefix(seed: int, changes: Mapping[str, Any]):
  """Error with a cached prefix, which texts follow."""
  theirs = make(changes, seed)
  ids, mask = tokens(seed, TINY['vocab_size'])
  front = tokens(seed + 1, TINY['vocab_size'], (11,))[0]
  module, params = converted(
    theirs.config.to_dict(), references.weights(theirs), jnp.float32
  )
  apply = functools.partial(references.apply, module, {'params': params})
  first, past = apply(front, method='read')
  rest = apply(ids, mask, past)
  fronts = np.repeat(front, len(ids), axis=0)
  with torch.no_grad():
    want = theirs.model(
      torch.tensor(np.concatenate([fronts, ids], axis=1)),
      use_cache=False,
      attention_mask=torch.tensor(
        np.concatenate([np.ones_like(fronts), mask], axis=1)
      ).long(),
    )[0]
  first = np.repeat(first, len(ids), axis=0)
  return relative_error(np.concatenate([first, rest], axis=1), want)


def measure_rotary(seed: int):
  """Error of rotated queries of published size, beyond the sliding window.

  Far positions show the rounding of the angles.
  """
  config = transformers.Gemma2Config()
  dim, length = config.head_dim, 4200
  x = np.random.default_rng(seed).normal(size=(1, length, 2, dim))
  x = x.astype(np.float32)
  q = torch.from_numpy(x).transpose(1, 2)
  rotary = modeling_gemma2.Gemma2RotaryEmbedding(config)
  want, _ = modeling_gemma2.apply_rotary_pos_emb(
    q, q, *rotary(q, torch.arange(length)[None])
  )
  got = jax.jit(
    lambda x: modules.rotate(x, *modules.rotary_tables(length, dim, 10_000.0))
  )(x)
  return relative_error(got, references.as_array(want.transpose(1, 2)))
