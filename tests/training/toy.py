"""The smallest task: two layers learn a fixed linear map of noisy inputs.

As a script it is a training process for tests to kill:
`python toy.py WORKDIR KEY=VALUE...`, where the values are JSON. With the key
`process`, [coordinator's address, processes, index], it is one of several.
"""

import contextlib
import json
import pathlib
import shutil
import sys
import types

from absl import logging
import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image

from sana_jax.data import pipeline
from sana_jax.objectives.base import Aux, Objective, Player
from sana_jax.sharding.activations import constrain
from sana_jax.sharding.mesh import make_mesh, to_host
from sana_jax.training import bases
from sana_jax.training.loop import make_update, plan_run, train
from sana_jax.training.startup import first_state, open_batches
from sana_jax.training.state import plan
from sana_jax.training.task import Data, Task


class Toy:
  """Settings that a test may change before `make` builds the task."""

  name = 'toy'
  rules = [('.*/kernel', (None, 'fsdp')), ('.*/bias', ())]
  extra = ''

  def __init__(self, poison=(), width=32):
    """`poison`: the rows of the data set that are NaN."""
    self.width = width
    rng = np.random.default_rng(0)
    self.frozen = {'target': rng.normal(size=(16, 8)).astype(np.float32)}
    self.rows = rng.normal(size=(256, 16)).astype(np.float32)
    self.rows[list(poison)] = np.nan

  @property
  def objective(self):
    return Objective(
      self.init,
      self.rules,
      self.players(),
      lambda batch_size: {
        'x': jax.ShapeDtypeStruct((batch_size, 16), 'float32')
      },
      lambda: self.frozen,
      self.extra,
    )

  def players(self):
    return (Player('model', self.loss),)

  def make(self):
    return Task(
      self.name,
      self.objective,
      Data(self.batches),
      self.export,
      self.frozen,
      self.pictures,
    )

  def init(self, rng):
    one, two = jax.random.split(rng)
    return {
      'in': {
        'kernel': 0.2 * jax.random.normal(one, (16, self.width)),
        'bias': jnp.zeros(self.width),
      },
      'out': {
        'kernel': 0.2 * jax.random.normal(two, (self.width, 8)),
        'bias': jnp.zeros(8),
      },
    }

  def loss(self, params, frozen, batch, rngs, step):
    x = constrain(batch['x'], 'batch', None)
    y = x @ frozen['target']
    x = x + 0.1 * jax.vmap(lambda rng: jax.random.normal(rng, x.shape[1:]))(
      rngs
    )
    for name in ('in', 'out'):
      x = constrain(
        x @ params[name]['kernel'] + params[name]['bias'], 'batch', None
      )
    return jnp.mean((x - y) ** 2), Aux({'size': jnp.mean(jnp.abs(x))})

  def batches(self, *, seed, batch_size, rows):
    # Batches are made before the prefetch: grain's threads cost 0.5 ms an item.
    return iter(
      grain.MapDataset.source(self.rows)
      .shuffle(seed=seed)
      .repeat()
      .batch(batch_size)
      .map(lambda x: {'x': x[rows]})
      .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    )

  def pictures(self, params, step):
    kernel = to_host(_split(params['in']['kernel']))
    return Image.fromarray(np.uint8(kernel.clip(0, 1) * 255))

  def export(self, params, folder):
    np.savez(
      str(folder / 'model.npz'),
      **{
        f'{layer}_{name}': np.asarray(_split(x))
        for layer in params
        for name, x in params[layer].items()
      },
    )


@jax.jit
def _split(x):
  """Shards activations like the models, over the devices of all processes."""
  return constrain(x, 'batch', *[None] * (x.ndim - 1))


class Sharded(Toy):
  """The toy with its rows in files; logs the rows it has seen."""

  def __init__(self, folder):
    super().__init__()
    self.files = sorted(pathlib.Path(folder).glob('*.npy'))

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, index):
    file, row = divmod(index, len(self.rows) // len(self.files))
    return {'x': np.load(self.files[file])[row], 'index': np.float32(index)}

  def loss(self, params, frozen, batch, rngs, step):
    loss, aux = super().loss(params, frozen, batch, rngs, step)
    # Exact in float32, so that equal means imply equal examples.
    return loss, Aux(
      {
        **aux.metrics,
        'seen': jnp.mean(batch['index']),
        'seen_squares': jnp.mean(batch['index'] ** 2),
      }
    )

  def batches(self, *, seed, batch_size, rows):
    return iter(
      pipeline.batches(
        self,
        batch_size=batch_size,
        seed=seed,
        rows=rows,
        num_threads=2,
        max_bad_fraction=0.2,
      )
    )


def get_config(**changes):
  return ml_collections.ConfigDict(
    {
      'seed': 0,
      'num_steps': 10,
      'batch_size': 16,
      'log_every_steps': 2,
      'checkpoint_every_steps': 4,
      'keep_checkpoints': 2,
      'keep_every_steps': 0,
      'checkpoint_cache': '',
      'cache_every_steps': 2,
      'pictures_every_steps': 0,
      'ema_decay': 0.9,
      'max_skipped_in_a_row': 3,
      'max_skipped_fraction': 0.1,
      'accumulate_steps': 1,
      'param_dtype': 'float32',
      'init_from': '',
      'trainable': '',
      'kernels': {},
      'optimizer': {'name': 'adamw', 'learning_rate': 1e-2, 'clip_norm': 0.0},
      'watch': {'stall_minutes': 0.0, 'divergence_factor': 0.0},
      'mesh': {'data': 2, 'fsdp': 4},
      **changes,
    }
  )


def run(workdir, task=None, devices=None, traced_steps=None, **changes):
  """Trains a toy, or any Task."""
  config = get_config(**changes)
  mesh = make_mesh(config.mesh, devices)
  task = task or Toy()
  return train(
    config,
    task if isinstance(task, Task) else task.make(),
    workdir,
    mesh,
    traced_steps,
  )


def resume(workdir, copy, step, *args, **changes):
  """Continues a run from its checkpoint of `step`, in a copy of its workdir."""
  shutil.copytree(workdir, copy)
  for path in (copy / 'checkpoints').iterdir():
    if int(path.name) > step:
      shutil.rmtree(path)
  assert (copy / f'checkpoints/{step}').exists()
  return run(copy, *args, **changes)


def steps(task=None, devices=None, **changes):
  """The states after each step of a run without a workdir, and the metrics."""
  config = get_config(**changes)
  mesh, task = make_mesh(config.mesh, devices), (task or Toy()).make()
  planned = plan_run(config, task, mesh)
  watch = types.SimpleNamespace(phase=contextlib.nullcontext)
  found = []
  with jax.set_mesh(mesh), open_batches(config, task, mesh) as batches:
    state = first_state(config, task, planned, mesh)
    base = {}
    if planned.base:
      base, _ = bases.make(planned, config, task.start, mesh)
    update = make_update(config, task, planned, mesh, base, watch)
    for step in range(config.num_steps):
      state, metrics = update(state, next(batches), step)
      # Copies: the next step reuses the buffers of the state.
      found.append(jax.tree.map(np.array, (state, metrics)))
  return found


def planned(mesh, optimizer, toy=None, **options):
  """Plan of a run of the toy, with one optimizer for all its players."""
  objective = (toy or Toy()).objective
  return plan(
    objective, {p.name: optimizer for p in objective.players}, mesh, **options
  )


def start(arguments):
  """Joins the other processes; returns the other settings."""
  logging.set_verbosity(logging.INFO)
  settings = {
    key: json.loads(value) for key, value in (a.split('=') for a in arguments)
  }
  jax.config.update('jax_num_cpu_devices', settings.pop('devices', 2))
  if process := settings.pop('process', None):
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(*process)
  return settings


if __name__ == '__main__':
  settings = start(sys.argv[2:])
  shards, width = settings.pop('shards', None), settings.pop('width', 32)
  run(sys.argv[1], Sharded(shards) if shards else Toy(width=width), **settings)
