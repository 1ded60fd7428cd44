"""Image and mask editor of the demo's page.

SANA_JAX_SCREENSHOT_EDIT=docs/demo_edit.png makes the picture in the docs again.
"""

import io
import os

from demo_browser import enter, find, pictures, press, text, until, value
import numpy as np
from PIL import Image
import pytest
from selenium.webdriver.common.action_chains import ActionChains

from sana_jax.data.shapes import compose, meaning, render

pytestmark = pytest.mark.browser
CAPTION = 'a red circle is left of a blue square'
CHOOSE = '#edit [data-image]'


def photo():
  return render(
    compose(meaning(CAPTION), CAPTION, np.random.default_rng(0)), 128
  )


def chosen(page, selector, path):
  page.find_element('css selector', selector).send_keys(str(path))


@pytest.fixture
def folder(tmp_path):
  """A folder beside that of downloads."""
  (tmp_path / 'in').mkdir()
  return tmp_path / 'in'


@pytest.fixture
def opened(page, folder):
  """The page with an image."""
  Image.fromarray(photo()).save(folder / 'photo.png')
  chosen(page, CHOOSE, folder / 'photo.png')
  until(lambda: find(page, '#edit [data-picture]').is_displayed())
  until(lambda: value(page, '#width') == '128')
  return page


def painted(page):
  """Paints the right half with one stroke of the brush."""
  page.execute_script('document.querySelector("#edit [data-brush]").value = 46')
  canvas = find(page, '#edit [data-mask]')
  page.execute_script('arguments[0].scrollIntoView({block: "center"})', canvas)
  width, height = canvas.size['width'], canvas.size['height']
  place = round(0.24 * width)
  stroke = ActionChains(page)
  stroke.move_to_element_with_offset(canvas, place, round(-0.25 * height))
  stroke.click_and_hold()
  stroke.move_by_offset(0, round(0.5 * height)).release().perform()


def picture(page, downloads):
  # By a script: the page replaces the pictures of before at any time.
  link = 'document.querySelector("#pictures figcaption a")'
  shown = lambda: page.execute_script(f'return {link}?.href')
  before = shown()
  press(page)
  # The encoder is compiled, too.
  until(lambda: pictures(page) and shown() not in (None, before), 120)
  page.execute_script(f'{link}.click()')
  (path,) = until(lambda: list(downloads.glob('*.png')))
  data = until(path.read_bytes)
  path.unlink()
  with Image.open(io.BytesIO(data)) as image:
    return np.asarray(image), image.text


def test_a_painted_part_is_repainted_and_the_rest_stays(opened, downloads):
  painted(opened)
  enter(opened, '#prompt textarea', 'a red circle is left of a green star')
  enter(opened, '#strength input[type=number]', 1)
  got, about = picture(opened, downloads)
  before = photo()
  assert (got != before).any() and 'sha256' in about['mask']
  np.testing.assert_array_equal(got[:, :64], before[:, :64])
  if path := os.environ.get('SANA_JAX_SCREENSHOT_EDIT'):
    opened.execute_script('scrollTo(0, 0)')
    opened.save_screenshot(path)


def test_without_a_mask_all_of_the_image_is_the_start(opened, downloads):
  enter(opened, '#prompt textarea', CAPTION)
  enter(opened, '#strength input[type=number]', 0)
  got, about = picture(opened, downloads)
  off = np.abs(np.int16(got) - photo())
  assert off.mean() < 8  # The decoded encoding.
  assert 'sha256' in about['image'] and 'mask' not in about
  painted(opened)
  find(opened, '#edit [data-unmask]').click()
  find(opened, '#edit [data-remove]').click()
  assert not find(opened, '#edit [data-picture]').is_displayed()
  enter(opened, '#seed input', 5)
  _, about = picture(opened, downloads)
  assert 'image' not in about and 'strength' not in about


def test_a_mask_may_come_from_a_file(opened, downloads, folder):
  mask = np.zeros((128, 128), np.uint8)
  mask[:, 70:] = 255
  Image.fromarray(mask).save(folder / 'mask.png')
  chosen(opened, '#edit [data-mask-file]', folder / 'mask.png')
  enter(opened, '#prompt textarea', 'a red circle is left of a green star')
  got, _ = picture(opened, downloads)
  np.testing.assert_array_equal(got[:, :70], photo()[:, :70])
  assert (got != photo())[:, 70:].any()


def test_what_is_no_image_is_reported_and_changes_nothing(page, tmp_path):
  (tmp_path / 'text.png').write_text('no image')
  chosen(page, CHOOSE, tmp_path / 'text.png')
  assert 'not an image' in until(lambda: text(page, '.sana-message p'))
  assert not page.find_element(
    'css selector', '#edit [data-picture]'
  ).is_displayed()
