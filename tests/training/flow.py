"""The smallest Sana with its real loss, as a task; and as a script, processes.

`python flow.py WORKDIR KEY=VALUE...`, as toy.py, trains it once for each mesh
in `meshes`, a JSON object by name, in WORKDIR/NAME.
"""

import functools
import json
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np

from sana_jax import config as configs
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.sharding import tables
from sana_jax.training.tasks.sana import flow_loss

ROWS = 256
SETTINGS = {
    'log_every_steps': 1, 'checkpoint_every_steps': 10**6,
    'pictures_every_steps': 0,
    'optimizer': {
      'name': 'came', 'learning_rate': 1e-4, 'clip_norm': 0.}}


class Flow:
  """Latents of 4 x 4, six tokens of text; says which rows it has seen."""

  name = 'flow'
  rules = tables.SANA

  def __init__(self):
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    self.rows = {
        'latents': normal(ROWS, 4, 4, 4), 'text': normal(ROWS, 6, 8),
        'mask': rng.random((ROWS, 6)) < .7,
        'index': np.arange(ROWS, dtype=np.float32)}
    self.frozen = {
        'null_text': normal(6, 8), 'null_mask': np.arange(6) < 1}
    module = Sana(width=64, depth=2, cross_heads=2, in_channels=4,
                  out_channels=4, caption_channels=8, sample_size=4,
                  text_norm_scale=1.)
    self.init = abstract.transformer_init(module)
    self._loss = functools.partial(
        flow_loss, module, configs.train('sana').flow)

  def loss(self, params, frozen, batch, rngs):
    loss, found = self._loss(params, frozen, batch, rngs)
    # Exact in float32, so that equal means tell equal examples.
    return loss, {**found, 'seen': jnp.mean(batch['index']),
                  'seen_squares': jnp.mean(batch['index']**2)}

  def batches(self, *, seed, batch_size, rows):
    pick = lambda index: {k: x[index[rows]] for k, x in self.rows.items()}
    return iter(
        grain.MapDataset.range(ROWS).shuffle(seed=seed).repeat()
        .batch(batch_size).map(pick).to_iter_dataset())

  def pictures(self, params, step):
    return None

  def export(self, params, folder):
    leaves = {jax.tree_util.keystr(path): x for path, x in
              jax.tree_util.tree_leaves_with_path(params)}
    np.savez(str(folder / 'model.npz'), **leaves)


def lines(workdir):
  """What the log has of each step."""
  return [json.loads(line) for line in (
      workdir / 'metrics.jsonl').read_text().splitlines()]


if __name__ == '__main__':
  import toy
  settings = toy.start(sys.argv[2:])
  for name, mesh in settings.pop('meshes').items():
    toy.run(f'{sys.argv[1]}/{name}', Flow(), mesh=mesh,
            **{**SETTINGS, **settings})
