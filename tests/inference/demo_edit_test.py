"""Images and masks in the demo's requests."""

import base64
import io

import numpy as np
from PIL import Image
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import demo, view
from sana_jax.inference.demo import DrawRequest, File, Limits

LIMITS = Limits(size_px=64, steps=30, images=4)
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
MASK = np.zeros((16, 24), bool)
MASK[2:9, 10:15] = True


def png(image, prefix='data:image/png;base64,'):
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'png')
  return prefix + base64.b64encode(file.getvalue()).decode()


GOOD = DrawRequest(
  'a red circle', '', 24, 16, 2, 4.5, 7, 2, 'dpm++2m', png(PHOTO), png(MASK)
)


@pytest.mark.parametrize(
  'changes, key',
  [
    (dict(image='no base64'), 'image'),
    (dict(image=base64.b64encode(b'no image').decode()), 'image'),
    (dict(image='data:image/png;base64,'), 'image'),
    (dict(image=['x']), 'image'),
    (dict(image={'path': '/etc/hostname'}), 'image'),
    (dict(image=png(np.zeros((65, 8, 3), np.uint8))), 'image'),
    (dict(image=''), 'mask'),
    (dict(mask='x'), 'mask'),
    (dict(mask=png(MASK[:8])), 'mask'),
    (dict(strength=1.5), 'strength'),
    (dict(strength=float('nan')), 'strength'),
    (dict(strength='half'), 'strength'),
    (dict(mask_blur=-1), 'mask_blur'),
    (dict(mask_blur=None), 'mask_blur'),
  ],
  ids=lambda x: str(x)[:40],
)
def test_bad_images_are_refused_before_any_work(editor, changes, key):
  with pytest.raises(UserError) as refused:
    demo.draw(editor, GOOD._replace(**changes), LIMITS, 'tiny')
  assert refused.value.key == key and len(str(refused.value)) < 300


def test_the_pictures_keep_what_is_not_painted(editor):
  files = demo.draw(editor, GOOD, LIMITS, 'tiny')
  assert len(files) == 2
  for file in files:
    with Image.open(io.BytesIO(file.content)) as image:
      got, about = np.asarray(image), image.text
    np.testing.assert_array_equal(got[~MASK], PHOTO[~MASK])
    assert (got != PHOTO)[MASK].mean() > 0.5
    assert 'sha256' in about['image'] and 'sha256' in about['mask']
  bare = GOOD._replace(image=png(PHOTO, ''), mask='', strength=0)
  (first, second) = demo.draw(editor, bare, LIMITS, 'tiny')
  assert first.content != second.content  # Their numbers differ.
  pixels = [
    np.asarray(Image.open(io.BytesIO(x.content))) for x in (first, second)
  ]
  np.testing.assert_array_equal(*pixels)


def test_the_steps_shown_are_those_that_are_taken(editor):
  done = []
  request = GOOD._replace(steps=10, strength=0.5, num_images=1)
  demo.draw(editor, request, LIMITS, 'tiny', on_step=done.append)
  assert len(done) == request.evaluations == 5
  assert request._replace(image='').evaluations == 10
  assert request._replace(strength=None).evaluations == 10


def test_the_page_does_not_send_the_image_back():
  file = File('x.png', 'seed 7', b'')
  shown = view.pictures(GOOD, [file], ['/pictures/x'])
  assert GOOD.image not in shown and len(shown) < 2000
  assert 'strength' in shown
