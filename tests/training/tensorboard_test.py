"""TensorBoard's event files, read by TensorBoard itself, without TensorFlow."""

import io
import subprocess
import sys

from etils import epath
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image
import pytest
from tensorboard.backend.event_processing.event_accumulator import (
  EventAccumulator,
)

from sana_jax.training.reporting import Report

CONFIG = ml_collections.ConfigDict(
  dict(num_steps=9, batch_size=2, log_every_steps=2, max_skipped_in_a_row=2)
)


def train(folder, losses, image=None):
  start = min(losses) - 1
  with Report(epath.Path(folder), CONFIG, lambda n: 0.1, start) as report:
    for step, loss in losses.items():
      report(
        step,
        {
          'loss': jnp.float32(loss),
          'skipped': jnp.int32(0),
          'skipped_in_a_row': jnp.int32(0),
        },
      )
    if image:
      report.picture(max(losses), image)


def events(folder):
  found = EventAccumulator(str(folder))
  found.Reload()
  return found


def test_a_run_is_shown_with_its_numbers_and_samples(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
  train(tmp_path, {2: 0.5, 4: 0.25}, Image.fromarray(pixels))
  found = events(tmp_path)
  assert [(x.step, x.value) for x in found.Scalars('loss')] == [
    (2, 0.5),
    (4, 0.25),
  ]
  assert found.Scalars('learning_rate')[0].value == pytest.approx(0.1)
  (image,) = found.Images('samples')
  assert (image.step, image.width, image.height) == (4, 6, 4)
  shown = Image.open(io.BytesIO(image.encoded_image_string))
  np.testing.assert_array_equal(shown, pixels)


def test_steps_after_a_restored_checkpoint_are_replaced(tmp_path):
  train(tmp_path, {2: 1.0, 4: 2.0, 6: 3.0})
  train(tmp_path, {4: 4.0, 6: 5.0})
  found = [(x.step, x.value) for x in events(tmp_path).Scalars('loss')]
  assert found == [(2, 1.0), (4, 4.0), (6, 5.0)]


def test_an_open_file_has_what_was_written(tmp_path):
  with Report(epath.Path(tmp_path), CONFIG, lambda n: 0.1, 0) as report:
    for step in (2, 3):
      report(
        step,
        {
          'loss': jnp.float32(1),
          'skipped': jnp.int32(0),
          'skipped_in_a_row': jnp.int32(0),
        },
      )
    assert len(events(tmp_path).Scalars('loss')) == 1


@pytest.mark.long
def test_it_imports_no_tensorflow(tmp_path):
  code = (
    'import sys; from etils import epath; sys.modules["tensorflow"] = None; '
    'from sana_jax.training.boards import TensorBoard; '
    f'b = TensorBoard(epath.Path({str(tmp_path)!r})); '
    'b.write_scalars(1, {"x": 2.0}); b.close()'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
  assert events(tmp_path).Scalars('x')[0].value == 2.0
