"""Damaged Orbax checkpoints in a folder: loaded alike, or one UserError."""

import shutil

import jax
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import native, native_shapes

VARIABLES = {
  'params': {
    'a': {'kernel': np.arange(12, dtype=np.float32)},
    'b': np.ones((2, 3), np.float32),
  }
}


def damaged(rng, path):
  data = bytearray(path.read_bytes())
  place = rng.randrange(len(data) + 1)
  path.write_bytes(
    rng.choice(
      [
        data[:place],
        data[:place] + rng.randbytes(3) + data[place + 3 :],
        b'[' * 10**5,
        b'[]',
        b'{}',
        b'null',
        b'\xff',
        b'9' * 5000,
        data.replace(b'":', b'":null,"x":', 1),
        data.replace(b'2', b'2000000000'),
        data.replace(b'":', b'":' + b'9' * 5000 + b',"x":', 1),
      ]
    )
  )


# Orbax's threads report to an event loop that has ended with the error.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_damaged_checkpoint_loads_alike_or_is_one_sentence(
  hostile, special, tmp_path
):
  native.save(tmp_path / 'good', VARIABLES)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), VARIABLES
  )
  for i, rng in enumerate(hostile.cases(6, 60)):
    folder = shutil.copytree(tmp_path / 'good', tmp_path / str(i))
    path = rng.choice(sorted(p for p in folder.rglob('*') if p.is_file()))
    if rng.random() < 0.8:
      damaged(rng, path)
    else:
      path.unlink()
      special(rng, path)
    try:
      native_shapes.check(folder, shapes)
      got = native.load(folder, shapes)
    except UserError as e:
      assert str(e).isprintable() and len(str(e)) < 1500
    else:
      jax.tree.map(np.testing.assert_array_equal, got, VARIABLES)
