"""Control image of a ControlNet on the demo's page.

SANA_JAX_SCREENSHOT_CONTROL=FILE.png makes a picture of the page.
"""

import io
import os

from demo_browser import enter, find, press, reported, text, until, value
import numpy as np
from PIL import Image
import pytest

from sana_jax.data.shapes import controls, scene
from sana_jax.inference import images
from sana_jax.inference.batches import Request
from sana_jax.inference.gallery import about

pytestmark = pytest.mark.browser
CHOOSE = '#control [data-image]'
MADE = 'return document.querySelector("#pictures [data-made]")?.dataset.made'
NUMBERS = 'scale', 'start', 'end'


@pytest.fixture(scope='module')
def controlled_demo(served):
  return served('shapes', '--controlnet', 'shapes-control')


@pytest.fixture
def folder(tmp_path):
  """A folder beside that of downloads."""
  (tmp_path / 'in').mkdir()
  return tmp_path / 'in'


@pytest.fixture
def page(browser, controlled_demo):
  browser.get(controlled_demo.address)
  find(browser, '#prompt textarea')
  find(browser, CHOOSE)
  yield browser
  assert 'Traceback' not in controlled_demo.log.read_text()
  log = [x['message'] for x in browser.get_log('browser')]
  assert not [x for x in log if 'Uncaught' in x or 'Content Security' in x]


def choose(page, path):
  page.find_element('css selector', CHOOSE).send_keys(str(path))


def picture(page, downloads):
  """Pixels and metadata of the first picture, drawn with seed 5."""
  enter(page, '#seed input', 5)
  before = page.execute_script(MADE)
  press(page)
  until(lambda: page.execute_script(MADE) not in (before, None), 180)
  reported(page)
  page.execute_script(
    'document.querySelector("#pictures figcaption a").click()'
  )
  (path,) = until(lambda: list(downloads.glob('*.png')))
  data = until(path.read_bytes)
  path.unlink()
  with Image.open(io.BytesIO(data)) as image:
    return np.asarray(image), image.text


def overlap(image, mask):
  """IoU of what differs from the background in both."""
  found = [
    np.abs(np.int16(x) - np.int16(x[0, 0])).max(-1) > 40 for x in (image, mask)
  ]
  return (found[0] & found[1]).sum() / (found[0] | found[1]).sum()


def test_pictures_follow_the_control_image_until_it_is_removed(
  page, downloads, folder
):
  drawn = scene(0, 'heldout', 3, layout='free')
  mask = controls.masks(drawn, 128)
  images.write_png(folder / 'mask.png', mask)
  assert not find(page, '#control-numbers').is_displayed()
  enter(page, '#width input', 96)
  choose(page, folder / 'mask.png')
  until(lambda: find(page, '#control-numbers').is_displayed())
  until(lambda: value(page, '#width') == '128')  # The size of its ratio.
  enter(page, '#prompt textarea', drawn.caption)
  controlled, found = picture(page, downloads)
  assert 'sha256' in found['control_image']
  if path := os.environ.get('SANA_JAX_SCREENSHOT_CONTROL'):
    page.execute_script('document.querySelector("#edit").scrollIntoView()')
    page.save_screenshot(path)
  find(page, '#control [data-remove]').click()
  assert not find(page, '#control-numbers').is_displayed()
  free, found = picture(page, downloads)
  assert 'control_image' not in found
  assert overlap(controlled, mask) > 0.7 > overlap(free, mask) + 0.1


def test_its_settings_come_from_a_png_and_the_server_refuses_other_ratios(
  page, folder
):
  settings = {'steps': 2, 'guidance_scale': 3.0, 'sampler': 'dpm++2m'}
  settings |= {'control_scale': 0.5, 'control_start': 0.25, 'control_end': 0.75}
  metadata = about(Request('a star', 5, 0, '', 128, 128), settings, 'shapes')
  images.write_png(folder / 'a.png', np.zeros((8, 8, 3), np.uint8), metadata)
  images.write_png(folder / 'wide.png', np.zeros((20, 128, 3), np.uint8))
  choose(page, folder / 'wide.png')
  until(lambda: find(page, '#control-numbers').is_displayed())
  find(page, '#drop input').send_keys(str(folder / 'a.png'))
  assert 'No field' not in until(lambda: text(page, '.sana-message p'))
  fields = [f'#control-{name} input[type=number]' for name in NUMBERS]
  values = lambda: [
    page.execute_script(f'return document.querySelector("{x}").value')
    for x in fields
  ]
  until(lambda: values() == ['0.5', '0.25', '0.75'])
  page.execute_script('sana.closeMessages()')
  press(page)
  message = until(lambda: text(page, '.sana-message p'))
  assert message.startswith('control_image has 128 x 20 pixels')
  (folder / 'text.png').write_text('no image')
  page.execute_script('sana.closeMessages()')
  choose(page, folder / 'text.png')
  assert 'not an image' in until(lambda: text(page, '.sana-message p'))
