"""A tiny distillation as a task, and a training process for tests to kill.

`python sprint_toy.py WORKDIR KEY=VALUE...`, see toy.py; `ladd` and `sprint` are
settings of these groups.
"""

import sys

import grain
import jax
from ml_collections import ConfigDict
import numpy as np
import toy

from sana_jax import config as base
from sana_jax.diffusion.denoiser import Denoiser
from sana_jax.diffusion.paths import TrigFlow
from sana_jax.models import abstract
from sana_jax.models.ladd import Heads
from sana_jax.models.sana import Sana
from sana_jax.objectives import sprint
from sana_jax.objectives.sprint_networks import Sprint
from sana_jax.sharding import tables
from sana_jax.training.task import Data, Task

TOKENS, RECORDS = 6, 64
TEACHER = Sana(
  width=32,
  depth=2,
  cross_heads=2,
  head_dim=8,
  in_channels=4,
  out_channels=4,
  caption_channels=8,
  sample_size=4,
  qk_norm=True,
  cross_norm=True,
  timestep_scale=0.001,
)
STUDENT = TEACHER.clone(guidance_embeds=True)


def distillation(ladd=None, **settings):
  """Networks of a distillation with these settings."""
  of = lambda group, values: ConfigDict(
    {**base.train('sprint')[group], **values}
  )
  groups = {
    'ladd': of('ladd', {'blocks': (0, 1), **(ladd or {})}),
    'sprint': of('sprint', {'tangent_warmup_steps': 4, **settings}),
  }
  path = TrigFlow()
  return Sprint(
    Denoiser(STUDENT, path),
    Denoiser(TEACHER, path),
    Heads(groups['ladd'].norm, groups['ladd'].spectral, 4),
    groups['sprint'],
    groups['ladd'],
  )


def objective(of):
  """Its objective; the described batches have 6 tokens."""
  return sprint.objective(
    of,
    init=abstract.transformer_init(STUDENT),
    rules=tables.SANA,
    head_rules=tables.LADD_HEADS,
    tokens=TOKENS,
    teacher=abstract.transformer(TEACHER),
  )


def normal(seed, *shape):
  draw = np.random.default_rng(seed).normal(size=shape)
  return draw.astype(np.float32)


def records():
  """Latents and text of all records."""
  return {
    'latents': normal(0, RECORDS, 4, 4, 4),
    'text': normal(1, RECORDS, TOKENS, 8),
    'mask': np.random.default_rng(2).random((RECORDS, TOKENS)) < 0.7,
  }


def frozen():
  """The teacher, whose weights are not those of the student, and null text."""
  init = jax.jit(abstract.transformer_init(TEACHER))
  return {
    'teacher': jax.tree.map(np.asarray, init(jax.random.key(7))),
    'null_text': normal(3, TOKENS, 8),
    'null_mask': np.arange(TOKENS) < 1,
  }


def batches(*, seed, batch_size, rows):
  """Endless batches in random order; see training.task.Data."""
  data = records()
  return iter(
    grain.MapDataset.range(RECORDS)
    .shuffle(seed=seed)
    .repeat()
    .batch(batch_size)
    .map(lambda order: {k: x[order[rows]] for k, x in data.items()})
    .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
  )


def task(ladd=None, **settings):
  """The distillation as a task that exports only the student."""
  return Task(
    'sprint_toy',
    objective(distillation(ladd, **settings)),
    Data(batches),
    lambda params, folder: np.savez(
      str(folder / 'model.npz'),
      **{
        jax.tree_util.keystr(path): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(
          sprint.student_of(params)
        )
      },
    ),
    frozen(),
  )


def optimizers(learning_rate=1e-3):
  """Settings of both players' optimizers in a config."""
  one = {'name': 'adamw', 'learning_rate': learning_rate, 'clip_norm': 1.0}
  return {'optimizer': one, 'discriminator': {**one, 'clip_norm': 0.5}}


if __name__ == '__main__':
  given = toy.start(sys.argv[2:])
  groups = {k: given.pop(k, {}) for k in ('ladd', 'sprint')}
  toy.run(
    sys.argv[1],
    task(groups['ladd'], **groups['sprint']),
    **optimizers(),
    **given,
  )
