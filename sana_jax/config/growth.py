"""The keys of growth: a run that starts from a model of fewer blocks."""

from sana_jax.keys import Key, most, NOT_NEGATIVE, NOTHING, one_of

STRATEGIES = (
  'constant',
  'cyclic',
  'block_expand',
  'progressive',
  'interpolation',
  'random',
)

KEYS = {
  'strategy': Key(
    '',
    'Initial values of the blocks that the model of init_from lacks to '
    "model.depth: see docs/growing.md; '' for a model of that depth.",
    one_of(('', *STRATEGIES)),
    NOTHING,
  ),
  'drop': Key(
    0,
    'Number of its last blocks that are left out; 2 of 20 in SANA-1.5.',
    (NOT_NEGATIVE, most(2**10)),
    NOTHING,
  ),
  'zero_gate': Key(
    False,
    "Whether the copies of 'cyclic' and 'block_expand' are identities.",
    changes=NOTHING,
  ),
}
