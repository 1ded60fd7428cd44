"""States in checkpoints without a training run, and damage to their files."""

import functools

import jax
import ml_collections
import numpy as np
import optax

from sana_jax.sharding.mesh import make_mesh
from sana_jax.training.checkpoints import Checkpoints

CONFIG = ml_collections.ConfigDict(
  {'keep_checkpoints': 3, 'keep_every_steps': 0}
)


class Run:
  """A state and a place in the data, without training."""

  def __init__(self, toy, folder, mesh=None, devices=8, config=CONFIG):
    self.folder, self.config = folder, config
    mesh = mesh or {'data': 2, 'fsdp': 4}
    self.batches = toy.Toy().batches(seed=0, batch_size=16, rows=range(16))
    planned = _planned(toy, tuple(mesh.items()), devices)
    self.init, self.shapes = planned.init, planned.state

  def save(self, *steps):
    """A new state for each step, after one batch more; returns them."""
    states = {}
    with Checkpoints(self.folder, self.config) as checkpoints:
      for step in steps:
        next(self.batches)
        states[step] = self.init(jax.random.key(step))
        checkpoints.save(step, states[step], self.batches)
    return states

  def restore(self):
    with Checkpoints(self.folder, self.config) as checkpoints:
      return checkpoints.restore(self.shapes, self.batches)


@functools.cache
def _planned(toy, mesh, devices):
  mesh = make_mesh(dict(mesh), jax.devices()[:devices])
  return toy.planned(mesh, optax.adam(1e-3))


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def arrays(folder):
  """The files that hold the arrays (in small runs, some of them twice)."""
  return list((folder / 'state').rglob('d/*'))


def files(folder):
  return sorted(p for p in folder.rglob('*') if p.is_file())


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def truncate(path):
  path.write_bytes(path.read_bytes()[:-20])
