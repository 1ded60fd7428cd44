"""The curve shows the losses, and smoothing does not move it."""

import io
import json

from etils import epath
import numpy as np
from PIL import Image
import pytest

from sana_jax.training import pictures

pytestmark = pytest.mark.fast


def test_a_straight_line_stays_where_it_is():
  line = np.linspace(5, 1, 200)
  np.testing.assert_allclose(pictures.smooth(line), line, rtol=1e-12)


def test_noise_becomes_smaller():
  noise = np.random.default_rng(0).normal(size=1000)
  # Means of 51 independent values; the ends have fewer.
  assert pictures.smooth(noise)[50:-50].std() < 2 / np.sqrt(51)


@pytest.mark.parametrize('losses', [[3.0, 1.0], [1.0, -1.0, 0.0]])
def test_the_curve_is_a_picture(losses):
  png = pictures.loss_curve(
    np.arange(1, len(losses) + 1), np.array(losses), 'toy'
  )
  image = Image.open(io.BytesIO(png))
  assert image.size == (960, 540)
  blue = np.asarray(image.convert('RGB')).astype(int)
  assert (blue[..., 2] - blue[..., 0] > 60).sum() > 300  # There is a line.


def test_the_title_has_the_last_smoothed_loss(monkeypatch):
  titles = []
  monkeypatch.setattr(
    pictures.Figure,
    'savefig',
    lambda figure, *_, **__: titles.append(figure.axes[0].get_title()),
  )
  # The least-squares line through 1, 1, 1, 1, 6 ends at 2 + 2 * 1 = 4.
  pictures.loss_curve(np.arange(1, 6), np.array([1.0, 1, 1, 1, 6]), 'toy')
  assert titles == ['toy: loss 4 after 5 steps']


def test_steps_without_a_loss_are_left_out(tmp_path):
  lines = [{'step': s, 'loss': x} for s, x in ((1, 3.0), (2, None), (3, 1.0))]
  (tmp_path / 'metrics.jsonl').write_text(
    ''.join(json.dumps(x) + '\n' for x in lines)
  )
  pictures.save_loss_curve(epath.Path(tmp_path), 'toy')
  with Image.open(tmp_path / 'loss.png') as image:
    assert image.size == (960, 540)


def test_losses_that_no_picture_can_show_are_left_out(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(
    '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 1e999}\n{"step": 3}\n'
    '{"step": 4, "loss": NaN}\n{"step": 5, "loss": 2}\n'
  )
  pictures.save_loss_curve(epath.Path(tmp_path), 'toy')
  with Image.open(tmp_path / 'loss.png') as image:
    assert image.size == (960, 540)


def test_one_line_makes_no_curve(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "loss": 2.0}\n')
  pictures.save_loss_curve(epath.Path(tmp_path), 'toy')
  assert not (tmp_path / 'loss.png').exists()


def test_samples_come_back_as_they_were(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
  pictures.save_samples(epath.Path(tmp_path), 12, Image.fromarray(pixels))
  with Image.open(tmp_path / 'pictures/step_000012.png') as found:
    np.testing.assert_array_equal(found, pixels)
