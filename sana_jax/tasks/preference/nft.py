"""Tunes adapters by the rewards of their own pictures, by DiffusionNFT.

The loss is in objectives/policy.py, the pictures are those of rollouts.py. The
data are prompts alone: the loop's batches are numbers of rows, which
`Task.collect` replaces by drawn pictures.
"""

from collections.abc import Sequence
import dataclasses
import sys
import zlib

import grain
from ml_collections import ConfigDict
import numpy as np

from sana_jax.data import files
from sana_jax.errors import UserError
from sana_jax.models.sana import Sana
from sana_jax.objectives import policy
from sana_jax.objectives.base import Objective
from sana_jax.paths import expanded_or_url
from sana_jax.registry import Kind
from sana_jax.sharding import tables
from sana_jax.tasks import common, lora
from sana_jax.tasks.preference import rewards
from sana_jax.tasks.preference.dpo import lora_exporter
from sana_jax.tasks.preference.rollouts import Rollouts
from sana_jax.tasks.sana import drawing, encoders, exports
from sana_jax.tasks.sana.task import Samples
from sana_jax.training.task import Data, Exporter, Records, Task
from sana_jax.weights.folder import Model


def objective(config: ConfigDict) -> Objective:
  """DiffusionNFT of config.model with adapters."""
  return _objective(config, common.build(Sana, config))


def exporter(config: ConfigDict) -> Exporter:
  """Writes the adapters as a file for diffusers."""
  module = common.build(
    Sana, config, **exports.sizes(exports.folders_of(config))
  )
  return lora_exporter(config, module, _objective(config, module))


def open_task(config: ConfigDict, workdir, mesh=None) -> Task:
  """The task with its prompts, reward and frozen models."""
  del workdir  # Nothing is cached.
  exported = exporter(config)
  module = common.build(
    Sana, config, **exports.sizes(exports.folders_of(config))
  )
  prompts = read_prompts(config)
  scorer = rewards.load(config, prompts)
  pipe = drawing.pipeline(config, Model(module, {})).replace(mesh=mesh)

  def model(params):
    old = policy.sampling(params, lora.KEY)
    return Model(module, lora.variables(config, module, old))

  rollouts = Rollouts(
    config,
    prompts,
    pipe,
    model,
    encoders.needed_length(
      pipe.tokenizer,
      prompts,
      encoders.instruction_of(config),
      config.inputs.text_length,
    ),
    scorer,
  )
  samples = Samples(config, module, Prompts(prompts))
  return Task(
    'nft',
    exported.objective,
    Data(
      batches, Records(len(prompts), zlib.crc32('\n'.join(prompts).encode()))
    ),
    exported.write,
    rollouts.null_text(),
    lambda params, step: samples.draw(policy.current(params), step),
    exported.start,
    collect=rollouts,
  )


KIND = Kind(objective, exporter, open_task, part='transformer')


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Prompts in the place of the captions of records, for sample grids."""

  prompts: Sequence[str]

  def captions(self, count: int) -> list[str]:
    """The first `count`."""
    return list(self.prompts[:count])


def batches(
  *, seed: int, batch_size: int, rows: Sequence[int]
) -> grain.DatasetIterator:
  """The numbers of these rows, in each step; see training.task.Data."""
  del seed, batch_size
  numbers = {'row': np.asarray(rows, np.int32)}
  return iter(
    grain.MapDataset.range(sys.maxsize)
    .map(lambda step: numbers)
    .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
  )


def read_prompts(config: ConfigDict) -> list[str]:
  """The distinct prompts of a run; UserError if there are none."""
  path = config.nft.prompts
  if not path:
    source = common.open_inputs(config)
    records = common.good_records(source, float(config.data.max_bad_fraction))
    return list(dict.fromkeys(record['caption'] for record in records))
  try:
    # U+2028 and its like end no line, and a byte order mark is no text.
    lines = files.read(expanded_or_url(path)).decode('utf-8-sig').split('\n')
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f'config.nft.prompts={path!r} cannot be read ({error}); set it to a text '
      'file with a prompt in each line.',
      key='nft.prompts',
      value=path,
      allowed='text files',
    ) from error
  found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
  if not found:
    raise UserError(
      f'config.nft.prompts={path!r} has no prompts; write one in each line.',
      key='nft.prompts',
      value=path,
      allowed='a prompt in each line',
    )
  return found


def _objective(config, module):
  adapted = lora.adapted(config, module, tables.SANA)
  return policy.objective(
    module,
    config.flow,
    config.nft,
    factors=lora.KEY,
    init=adapted.init,
    rules=adapted.rules,
    tokens=config.inputs.text_length,
    partial=adapted.partial,
    split=adapted.split,
  )
