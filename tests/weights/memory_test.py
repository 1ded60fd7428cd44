"""Peak memory of loading a 1.6B checkpoint."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from sana_jax.config import SANA_SIZES
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.weights import folder as folders
from sana_jax.weights import sana, table
from sana_jax.weights.tensors import Stored

pytestmark = pytest.mark.slow
GIB = 2**30
LOAD = """
import pathlib, resource, sys
import jax
from sana_jax.weights import folder as folders
model = folders.load(pathlib.Path(sys.argv[1]), 'transformer', sys.argv[2])
jax.block_until_ready(model.variables)
print(sum(x.nbytes for x in jax.tree.leaves(model.variables)),
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def random_tensor(shape):
  """Random tensors, drawn when they are written."""

  def fetch(start, stop):
    return np.random.default_rng(start).standard_normal(
      (stop - start, *shape[1:]), dtype=np.float32
    )

  return Stored(shape, np.dtype(np.float32), fetch)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  folder = tmp_path_factory.mktemp('model')
  module = Sana(**SANA_SIZES['sana_1600m_1024'])
  blank = jax.tree.map(
    lambda s: np.broadcast_to(np.float32(0), s.shape),
    abstract.transformer(module),
  )
  config = sana.diffusers_config(folders.module_fields(module))
  folders.write_part(
    folder,
    'transformer',
    config,
    {
      key: random_tensor(x.shape)
      for key, x in table.save(sana.rules(), blank).items()
    },
  )
  return folder


@pytest.mark.parametrize('dtype, size', [('float32', 4), ('bfloat16', 2)])
def test_the_peak_is_the_model_and_at_most_a_gibibyte(checkpoint, dtype, size):
  run = subprocess.run(
    [sys.executable, '-c', LOAD, checkpoint, dtype],
    check=True,
    capture_output=True,
    text=True,
  )
  model, peak = map(int, run.stdout.split())
  assert model == 1_604_462_752 * size
  assert peak <= model + GIB
