"""Sliders of adapters on the demo's page.

SANA_JAX_SCREENSHOT_LORA=FILE.png makes a picture of the page.
"""

import io
import os

import adapter_files
from demo_browser import enter, find, press, reported, text, until
import numpy as np
from PIL import Image
import pytest

from sana_jax.inference import images
from sana_jax.inference.batches import Request
from sana_jax.inference.gallery import about
from sana_jax.weights import folder as folders
from sana_jax.weights import hub

pytestmark = pytest.mark.browser
SLIDERS = '#lora-0', '#lora-1'
MADE = 'return document.querySelector("#pictures [data-made]")?.dataset.made'
REQUEST = Request('a red circle', 5, 0, '', 128, 128)
SETTINGS = {'steps': 2, 'guidance_scale': 3.0, 'sampler': 'dpm++2m'}


@pytest.fixture(scope='module')
def tuned_demo(served, tmp_path_factory):
  """The demo of the shipped model with two adapters."""
  folder = tmp_path_factory.mktemp('lora')
  module = folders.describe(hub.find('shapes'), 'transformer')
  keys = [f'transformer_blocks.{i}.attn2.to_v' for i in range(6)]
  write = lambda name, seed: str(
    adapter_files.write(folder / name, module, keys, size=0.2, seed=seed)
  )
  style, other = write('my style.safetensors', 0), write('b.safetensors', 1)
  return served('shapes', '--lora', f'{style}:0.5', '--lora', f'{other}:0')


@pytest.fixture
def page(browser, tuned_demo):
  browser.get(tuned_demo.address)
  find(browser, '#lora-1 input[type=number]')
  enter(browser, '#prompt textarea', 'a red circle')
  enter(browser, '#steps input[type=number]', 2)
  yield browser
  assert 'Traceback' not in tuned_demo.log.read_text()
  log = [x['message'] for x in browser.get_log('browser')]
  assert not [x for x in log if 'Uncaught' in x or 'Content Security' in x]


def weights(page):
  return [
    page.execute_script(
      f'return document.querySelector("{x} input[type=number]").value'
    )
    for x in SLIDERS
  ]


def picture(page, downloads):
  """Pixels and metadata of the first picture, drawn with seed 5."""
  enter(page, '#seed input', 5)
  before = page.execute_script(MADE)
  press(page)
  until(lambda: page.execute_script(MADE) not in (before, None))
  reported(page)
  page.execute_script(
    'document.querySelector("#pictures figcaption a").click()'
  )
  (path,) = until(lambda: list(downloads.glob('*.png')))
  data = until(path.read_bytes)
  path.unlink()
  with Image.open(io.BytesIO(data)) as image:
    return np.asarray(image), image.text


def test_a_slider_weighs_its_adapter_and_the_history_restores_it(
  page, downloads
):
  assert 'my_style' in text(page, '#lora-0') and 'b' in text(page, '#lora-1')
  assert weights(page) == ['0.5', '0']
  half, found = picture(page, downloads)
  assert found['lora'] == 'my_style:0.5 b:0'
  enter(page, '#lora-0 input[type=number]', 0)
  enter(page, '#lora-1 input[type=number]', 1.25)
  other, found = picture(page, downloads)
  assert found['lora'] == 'my_style:0 b:1.25' and (half != other).any()
  if path := os.environ.get('SANA_JAX_SCREENSHOT_LORA'):
    page.execute_script('document.querySelector("#lora-0").scrollIntoView()')
    page.save_screenshot(path)
  find(page, '#history li img', count=2)
  find(page, '#history li:last-child button').click()
  until(lambda: weights(page) == ['0.5', '0'])
  again, _ = picture(page, downloads)
  np.testing.assert_array_equal(again, half)


@pytest.mark.parametrize(
  'lora, want, hint',
  [
    ('my_style:0.75 b:2', ['0.75', '2'], ''),
    ('out/my-style.safetensors:1.5 /x/b.safetensors:0.25', ['1.5', '0.25'], ''),
    ('b:1 elsewhere:0.5', ['0', '1'], 'Not loaded here: elsewhere'),
    ('<img src=x onerror="window.hacked=1">:1', ['0', '0'], 'Not loaded'),
    ('b:NaN b: x:1e999', ['0', '0'], ''),
    (None, ['0', '0'], ''),
  ],
)
def test_a_png_restores_weights(page, tmp_path, lora, want, hint):
  path = tmp_path / 'a.png'
  metadata = about(REQUEST, SETTINGS, 'shapes')
  metadata |= {} if lora is None else {'lora': lora}
  images.write_png(path, np.zeros((128, 128, 3), np.uint8), metadata)
  find(page, '#drop input').send_keys(str(path))
  message = until(lambda: text(page, '.sana-message p'))
  until(lambda: weights(page) == want)
  assert hint in message and 'No field here has' not in message
  assert not page.execute_script('return window.hacked')
