"""The keys of every run."""

from sana_jax.fields import Field
from sana_jax.kernels import OPS
from sana_jax.kernels.dispatch import Op
from sana_jax.keys import (
  CACHE,
  FRACTION,
  Key,
  LAYOUT,
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
    'stochastically at each step. Their average and the state of the optimizer '
    'are float32 in any case.',
    _DTYPE,
  ),
  'seed': Key(
    0, 'Decides initial values, data order and noise.', NOT_NEGATIVE, RESULT
  ),
  'init_from': Key(
    '',
    'Initial weights: a model folder, hub id or name of the zoo, of the '
    "same architecture; '' draws them.",
    changes=NOTHING,
  ),
  'trainable': Key(
    '',
    'Patterns of the paths of what trains, as in '
    "'decoder/.* encoder/conv_out/.*'; '' for all.",
    parsed_by(freezing.compiled, freezing.FORM),
  ),
  'num_steps': Key(1000, 'Length of the run.', POSITIVE, PROGRAM),
  'batch_size': Key(32, 'Examples of a step, over all devices.', POSITIVE),
  'accumulate_steps': Key(
    1,
    'Parts of a batch that are computed one after the other.',
    POSITIVE,
    PROGRAM | LAYOUT,
  ),
  'ema_decay': Key(
    0.999, 'Decay of the average of the weights; 0 for no average.', FRACTION
  ),
  'max_skipped_in_a_row': Key(
    20,
    'Updates that are not finite, one after the other, before the run stops.',
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
    '', "Model folder whose vae/ encodes, for task 'sana'.", changes=RESULT
  ),
  'text_encoder': Key(
    '',
    'Model folder whose text_encoder/ and tokenizer/ encode.',
    changes=RESULT,
  ),
}

RECORDS = {
  'log_every_steps': Key(
    50, 'Steps between lines of metrics.', POSITIVE, NOTHING
  ),
  'checkpoint_every_steps': Key(
    500, 'Steps between checkpoints.', POSITIVE, NOTHING
  ),
  'keep_checkpoints': Key(2, 'The newest ones are kept.', POSITIVE, NOTHING),
  'keep_every_steps': Key(
    0,
    'The checkpoint of each such step is kept for ever; 0 for none.',
    NOT_NEGATIVE,
    NOTHING,
  ),
  'checkpoint_cache': Key(
    '',
    "Folder of each host's own (/dev/shm, an SSD) for checkpoints between "
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
  'watch.stall_minutes': Key(
    10.0,
    "Minutes without a step's end before a warning; 0 for none.",
    NOT_NEGATIVE,
    NOTHING,
  ),
  'watch.divergence_factor': Key(
    5.0,
    'Times its running median that a loss or gradient norm is before a '
    'warning; 0 for none.',
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
      'Ways that the batch is split; -1 for the rest of the devices.',
    ),
    ('fsdp', 1, 'Ways that the batch and the parameters are split.'),
    ('tensor', 1, 'Ways that heads and channels are split.'),
    ('sequence', 1, 'Ways that rows of latents are split.'),
    ('slices', 1, 'Such meshes, joined along data over slow links.'),
  )
}


def _backend(op: Op) -> Field:
  """'' or a backend, one that is registered later included."""
  return one_of(('', *op.implementations))._replace(
    test=lambda value: value in ('', *op.implementations)
  )


KERNELS = {
  f'kernels.{name}': Key(
    '',
    "Backend; '' for the fastest that can run: see docs/kernels.md.",
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
