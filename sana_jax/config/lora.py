"""The keys of low-rank adapters."""

import functools

from sana_jax.fields import Field
from sana_jax.keys import (
  Key,
  most,
  NOT_NEGATIVE,
  one_of,
  parsed_by,
)
from sana_jax.models import lora

_PATTERNS = 'regular expressions with spaces between them'

KEYS = {
  'rank': Key(
    0,
    'Rank of the adapters, which train alone; 0 trains the model itself.',
    (NOT_NEGATIVE, most(2**12)),
  ),
  'alpha': Key(
    0.0, 'Numerator of the scale, alpha / rank; 0 is the rank.', NOT_NEGATIVE
  ),
  'targets': Key(
    'to_q to_k to_v to_out.0',
    "Patterns of the adapted layers by diffusers' names, or their ends after a "
    "dot, without the number of a block: 'attn2.to_q ff.conv_point'.",
    (
      parsed_by(functools.partial(lora.patterns, key='targets'), _PATTERNS),
      Field('not empty', lambda value: bool(value.split())),
    ),
  ),
  'rank_pattern': Key(
    '',
    'Ranks of some of them, as PATTERN=RANK with spaces between such.',
    parsed_by(
      functools.partial(lora.numbers, key='rank_pattern', whole=True),
      lora.FORM,
    ),
  ),
  'alpha_pattern': Key(
    '',
    'Alphas of some of them, as PATTERN=ALPHA.',
    parsed_by(functools.partial(lora.numbers, key='alpha_pattern'), lora.FORM),
  ),
  'rslora': Key(False, 'Scale by alpha / sqrt(rank), as rsLoRA.'),
  'dora': Key(False, 'Train magnitudes of the outputs too, as DoRA.'),
  'base_dtype': Key(
    '',
    "Type in which the frozen model is stored; '' is that of `dtype`.",
    one_of(('', 'float32', 'bfloat16')),
  ),
}
