"""The keys of every run."""

import re

from sana_jax.fields import Field
from sana_jax.kernels import OPS
from sana_jax.kernels.dispatch import Op
from sana_jax.keys import (
  CACHE,
  FRACTION,
  Key,
  LAYOUT,
  Location,
  NOT_NEGATIVE,
  NOTHING,
  one_of,
  parsed_by,
  POSITIVE,
  PROGRAM,
  RESULT,
  SHARE,
)
from sana_jax.optim import freezing
from sana_jax.optim.keys import KEYS as OPTIMIZER

# float16 would need loss scaling.
_DTYPE = one_of(('float32', 'bfloat16'))
_LOCAL = Field(
  "a local folder, of each host's own", lambda value: '://' not in value
)

RUN = {
  'dtype': Key(
    'float32', 'Type of the arithmetic.', _DTYPE, RESULT | PROGRAM | CACHE
  ),
  'param_dtype': Key(
    'float32',
    "Type of the stored parameters; 'bfloat16' ones are rounded "
    'stochastically at each step. Their EMA and the optimizer state are always '
    'float32.',
    _DTYPE,
  ),
  'seed': Key(
    0, 'Seed of initial values, data order and noise.', NOT_NEGATIVE, RESULT
  ),
  'init_from': Key(
    '',
    'Initial weights: a model folder, hub id or name of the zoo, read at '
    "step 0, which sets config.model too; '' initializes them at random.",
    changes=NOTHING,
    location=Location(
      names=True,
      used=lambda values, begun: (
        values['trainable'] or values.get('lora.rank') or not begun
      ),
    ),
  ),
  'trainable': Key(
    '',
    'Patterns of the paths of trainable parameters, as in '
    "'decoder/.* encoder/conv_out/.*'; '' for all.",
    parsed_by(freezing.compiled, freezing.FORM),
  ),
  'num_steps': Key(
    1000,
    'Length of the run; a larger one continues it. Rates of schedules other '
    "than 'constant' depend on it.",
    POSITIVE,
    PROGRAM,
  ),
  'batch_size': Key(32, 'Examples per step, over all devices.', POSITIVE),
  'accumulate_steps': Key(
    1,
    'Microbatches of a step, computed one after the other.',
    POSITIVE,
    PROGRAM | LAYOUT,
  ),
  'ema_decay': Key(
    0.999, 'Decay of the EMA of the parameters; 0 for none.', FRACTION
  ),
  'max_skipped_in_a_row': Key(
    20,
    'Consecutive updates that are not finite before the run stops.',
    POSITIVE,
    NOTHING,
  ),
  'max_skipped_fraction': Key(
    0.1,
    'Largest fraction of skipped updates; a run with more exports no model.',
    SHARE,
    NOTHING,
  ),
  'autoencoder': Key(
    '',
    "Model folder of the encoder vae/, for task 'sana'; '' is init_from.",
    changes=RESULT,
    location=Location(names=True),
  ),
  'text_encoder': Key(
    '',
    "Model folder of text_encoder/ and tokenizer/; '' is init_from.",
    changes=RESULT,
    location=Location(names=True),
  ),
}

RECORDS = {
  'log_every_steps': Key(
    50, 'Steps between lines of metrics.', POSITIVE, NOTHING
  ),
  'checkpoint_every_steps': Key(
    500, 'Steps between checkpoints.', POSITIVE, NOTHING
  ),
  'keep_checkpoints': Key(
    2, 'Number of newest checkpoints to keep.', POSITIVE, NOTHING
  ),
  'keep_every_steps': Key(
    0,
    'Checkpoints of multiples of it are kept permanently; 0 for none.',
    NOT_NEGATIVE,
    NOTHING,
  ),
  'checkpoint_cache': Key(
    '',
    'Local folder of each host (/dev/shm, an SSD) for checkpoints between '
    "those of the workdir; '' for none.",
    _LOCAL,
    NOTHING,
  ),
  'cache_every_steps': Key(
    100, 'Steps between checkpoints there.', POSITIVE, NOTHING
  ),
  'pictures_every_steps': Key(
    1000,
    'Steps between sample grids and loss curves; 0 for none.',
    NOT_NEGATIVE,
    NOTHING,
  ),
  'wandb': Key(
    '',
    "Project of Weights & Biases that gets metrics and pictures; '' for none.",
    Field(
      "up to 128 letters, digits, '-', '_' and '.', or ''",
      lambda value: re.fullmatch(r'[\w.-]{0,128}', value, re.ASCII),
    ),
    NOTHING,
  ),
  'watch.stall_minutes': Key(
    10.0,
    "Minutes without a step's end before a warning; 0 for none.",
    NOT_NEGATIVE,
    NOTHING,
  ),
  'watch.divergence_factor': Key(
    5.0,
    'Ratio of a loss or gradient norm to its running median that is logged as '
    'a warning; 0 for none.',
    (NOT_NEGATIVE, Field('more than 1, or 0', lambda v: v == 0 or v > 1)),
    NOTHING,
  ),
}

MESH = {
  f'mesh.{axis}': Key(count, comment, changes=PROGRAM | LAYOUT)
  for axis, count, comment in (
    (
      'data',
      -1,
      'Shards of the batch; -1, of any axis, for the remaining devices.',
    ),
    ('fsdp', 1, 'Shards of the batch and the parameters.'),
    ('tensor', 1, 'Shards of heads and channels.'),
    ('sequence', 1, 'Shards of rows of latents.'),
    ('slices', 1, 'Number of such meshes, joined along data over slow links.'),
  )
}


def _backend(op: Op) -> Field:
  """'' or a backend, including one that is registered later."""
  return one_of(('', *op.implementations))._replace(
    test=lambda value: value in ('', *op.implementations)
  )


KERNELS = {
  f'kernels.{name}': Key(
    '',
    "Backend; '' for plain XLA, until another is measured to be faster: see "
    'docs/kernels.md.',
    _backend(op),
    PROGRAM | LAYOUT,
  )
  for name, op in OPS.items()
}

KEYS = (
  RUN
  | RECORDS
  | MESH
  | KERNELS
  | {f'optimizer.{name}': key for name, key in OPTIMIZER.items()}
)
