"""The smallest Sana with its real loss, as a task; and as a script, processes.

`python flow.py WORKDIR KEY=VALUE...`, as toy.py, trains it once for each mesh
in `meshes`, a JSON object by name, in WORKDIR/NAME.
"""

import dataclasses
import json
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np

from sana_jax import config as configs
from sana_jax import tasks
from sana_jax.objectives.base import Aux, Player
from sana_jax.training.task import Data, Task

ROWS = 256
SETTINGS = {
  'log_every_steps': 1,
  'checkpoint_every_steps': 10**6,
  'pictures_every_steps': 0,
  'optimizer': {'name': 'came', 'learning_rate': 1e-4, 'clip_norm': 0.0},
}


class Flow:
  """Latents of 4 x 4, six tokens of text; logs the rows it has seen."""

  def __init__(self):
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    self.rows = {
      'latents': normal(ROWS, 4, 4, 4),
      'text': normal(ROWS, 6, 8),
      'mask': rng.random((ROWS, 6)) < 0.7,
      'index': np.arange(ROWS, dtype=np.float32),
    }
    self.frozen = {'null_text': normal(6, 8), 'null_mask': np.arange(6) < 1}
    self.objective = objective()
    self._loss = self.objective.loss

  def make(self):
    seen = dataclasses.replace(
      self.objective, players=(Player('model', self.loss),)
    )
    return Task('flow', seen, Data(self.batches), self.export, self.frozen)

  def loss(self, *args):
    loss, aux = self._loss(*args)
    index = args[2]['index']
    # Exact in float32, so that equal means imply equal examples.
    return loss, Aux(
      {
        **aux.metrics,
        'seen': jnp.mean(index),
        'seen_squares': jnp.mean(index**2),
      }
    )

  def batches(self, *, seed, batch_size, rows):
    pick = lambda index: {k: x[index[rows]] for k, x in self.rows.items()}
    return iter(
      grain.MapDataset.range(ROWS)
      .shuffle(seed=seed)
      .repeat()
      .batch(batch_size)
      .map(pick)
      .to_iter_dataset()
    )

  def export(self, params, folder):
    leaves = {
      jax.tree_util.keystr(path): x
      for path, x in jax.tree_util.tree_leaves_with_path(params)
    }
    np.savez(str(folder / 'model.npz'), **leaves)


def objective(**fields):
  """Objective of the smallest Sana, with captions of six tokens."""
  config = configs.train('sana').unlock()
  config.model = dict(
    width=64,
    depth=2,
    cross_heads=2,
    in_channels=4,
    out_channels=4,
    caption_channels=8,
    sample_size=4,
    text_norm_scale=1.0,
    **fields,
  )
  config.inputs.text_length = 6
  return tasks.objective(config)


def lines(workdir):
  """Lines of each step in the log."""
  return [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]


if __name__ == '__main__':
  import toy

  settings = toy.start(sys.argv[2:])
  for name, mesh in settings.pop('meshes').items():
    toy.run(
      f'{sys.argv[1]}/{name}', Flow(), mesh=mesh, **{**SETTINGS, **settings}
    )
