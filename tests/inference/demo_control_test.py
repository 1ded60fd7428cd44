"""Control images in the demo's requests."""

import base64
import io
import math
import sys
import types

from controlled_pipes import controlled, plain
import numpy as np
from PIL import Image
import pytest

from sana_jax.data import annotators
from sana_jax.errors import UserError
from sana_jax.inference import demo, input_image, view
from sana_jax.inference.demo import DrawRequest, File, Limits

LIMITS = Limits(size_px=64, steps=30, images=4)
SCENE = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)


def png(image, prefix='data:image/png;base64,'):
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'png')
  return prefix + base64.b64encode(file.getvalue()).decode()


GOOD = DrawRequest(
  'a red circle', '', 32, 32, 2, 4.5, 7, 2, 'euler', control_image=png(SCENE)
)
HOW = dict(
  height=32, width=32, steps=2, guidance_scale=4.5, seed=7, sampler='euler'
)


def drawn(request, pipe=None):
  files = demo.draw(pipe or controlled(), request, LIMITS, 'tiny')
  images = [Image.open(io.BytesIO(file.content)) for file in files]
  return [np.asarray(image) for image in images], images[0].text


@pytest.mark.long
def test_pictures_follow_their_control_image_like_those_of_the_pipeline():
  got, about = drawn(GOOD)
  want = controlled().draw(
    'a red circle', num_images=2, control_image=SCENE, **HOW
  )
  np.testing.assert_array_equal(got, want)
  assert 'sha256' in about['control_image'] and about['control_scale'] == '1.0'
  assert 'control_annotator' not in about


@pytest.mark.long
def test_scale_start_and_end_are_those_of_the_pipeline():
  request = GOOD._replace(control_scale=0.5, control_start=0.5, num_images=1)
  got, about = drawn(request)
  control = {'scale': 0.5, 'start': 0.5}
  want = controlled().draw(
    'a red circle', control_image=SCENE, control=control, **HOW
  )
  np.testing.assert_array_equal(got, want)
  assert (about['control_scale'], about['control_start']) == ('0.5', '0.5')


@pytest.mark.long
def test_without_a_control_image_the_model_draws_alone():
  got, about = drawn(GOOD._replace(control_image='', num_images=1))
  np.testing.assert_array_equal(got, plain().draw('a red circle', **HOW))
  assert not any(key.startswith('control') for key in about)


@pytest.mark.long
def test_an_annotator_makes_the_control_image(monkeypatch):
  """Here one that inverts the image, in the size that is drawn."""
  fake = types.ModuleType('canny')
  fake.annotate = lambda image: 255 - image
  monkeypatch.setitem(sys.modules, f'{annotators.__name__}.canny', fake)
  image = png(np.kron(SCENE, np.ones((2, 2, 1), np.uint8)))
  request = GOOD._replace(control_image=image, control_annotator='canny')
  got, about = drawn(request)
  resized = Image.fromarray(
    input_image.from_bytes(
      base64.b64decode(image.partition(',')[2]), 'control_image'
    )
  ).resize((32, 32), Image.Resampling.LANCZOS)
  want = controlled().draw(
    'a red circle', num_images=2, control_image=255 - np.asarray(resized), **HOW
  )
  np.testing.assert_array_equal(got, want)
  assert about['control_annotator'] == 'canny'


def test_a_missing_annotator_is_one_sentence(monkeypatch):
  monkeypatch.setitem(sys.modules, 'skimage.feature', None)
  monkeypatch.setitem(sys.modules, 'skimage', None)
  with pytest.raises(UserError) as refused:
    drawn(GOOD._replace(control_annotator='canny'))
  assert 'control' in str(refused.value)


def bomb(side=30_000):
  """A PNG of few bytes that declares a picture of gigabytes."""
  data = bytearray(base64.b64decode(png(SCENE, '')))
  data[16:24] = side.to_bytes(4, 'big') * 2  # Of its header.
  return base64.b64encode(data).decode()


@pytest.mark.parametrize(
  'changes, key',
  [
    (dict(control_image='no base64'), 'control_image'),
    (dict(control_image=base64.b64encode(b'x').decode()), 'control_image'),
    (dict(control_image='data:image/png;base64,'), 'control_image'),
    (dict(control_image='../../etc/passwd'), 'control_image'),
    (dict(control_image={'path': '/etc/hostname'}), 'control_image'),
    (dict(control_image=[png(SCENE), png(SCENE)]), 'control_image'),
    (dict(control_image=png(SCENE)[:-80]), 'control_image'),
    (dict(control_image=bomb()), 'control_image'),
    (dict(control_image=png(np.zeros((65, 65, 3), np.uint8))), 'control_image'),
    (dict(control_image=png(SCENE[:12])), 'control_image'),  # Another ratio.
    (dict(width=16), 'control_image'),
    (dict(control_scale=-1), 'control_scale'),
    (dict(control_scale=1e308), 'control_scale'),
    (dict(control_scale=math.nan), 'control_scale'),
    (dict(control_scale=[1, 1]), 'control_scale'),
    (dict(control_scale=None), 'control_scale'),
    (dict(control_start=True), 'control_start'),
    (dict(control_end=1.1), 'control_end'),
    (dict(control_start=0.5, control_end=0.5), 'start'),
    (dict(control_annotator='sobel'), 'control_annotator'),
    (dict(control_annotator='../canny'), 'control_annotator'),
    (dict(control_annotator=['canny']), 'control_annotator'),
    (dict(control_annotator='masks'), 'control_annotator'),
  ],
  ids=lambda x: str(x)[:40],
)
def test_invalid_control_is_refused_before_any_work(changes, key):
  with pytest.raises(UserError) as refused:
    demo.check(controlled(), GOOD._replace(**changes), LIMITS)
  assert refused.value.key == key
  assert str(refused.value).isprintable() and len(str(refused.value)) < 300


def test_a_demo_without_a_net_refuses_control_images(pipe):
  with pytest.raises(UserError) as refused:
    demo.check(pipe, GOOD, LIMITS)
  assert refused.value.key == 'control_image'
  assert not set(demo.CONTROL) & set(demo.keys(pipe))
  assert set(demo.CONTROL) < set(demo.keys(controlled()))


def test_the_page_does_not_send_the_control_image_back():
  shown = view.pictures(GOOD, [File('x.png', 'seed 7', b'')], ['/pictures/x'])
  assert GOOD.control_image not in shown and 'control_scale' in shown
