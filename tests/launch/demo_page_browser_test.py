"""Scripts of the demo's page: messages, seeds, previews, history, PNG files.

SANA_JAX_SCREENSHOT=docs/demo.png makes the picture in the docs again.
"""

import io
import os
import time

from demo_browser import (
  enter,
  find,
  pictures,
  press,
  reported,
  text,
  until,
  value,
)
import numpy as np
from PIL import Image
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from sana_jax.inference import images
from sana_jax.inference.batches import Request
from sana_jax.inference.gallery import about

pytestmark = pytest.mark.browser
FIELDS = '#prompt textarea', '#width input', '#seed input', '#aspect input'
# In the order of the keyboard.
PARTS = ['prompt', 'examples', 'draw', 'stop', 'pictures', 'history']
PARTS += ['negative-prompt', 'edit', 'aspect', 'width', 'height', 'steps']
PARTS += ['guidance', 'images', 'sampler', 'seed', 'keep', 'drop']
REQUEST = Request('two blue squares', 77, 1, 'a star', 96, 160)
SETTINGS = {'steps': 9, 'guidance_scale': 2.5, 'sampler': 'euler'}


def run(page, script, *arguments):
  return page.execute_script(script, *arguments)


def messages(page):
  return page.find_elements('css selector', '.sana-message')


def drawn(page, prompt='a red circle', steps=2):
  """Draws pictures in few steps; returns the report."""
  enter(page, '#prompt textarea', prompt)
  enter(page, '#steps input[type=number]', steps)
  before = run(page, MADE)
  press(page)
  until(lambda: run(page, MADE) not in (before, None))
  return reported(page)


MADE = 'return document.querySelector("#pictures [data-made]")?.dataset.made'


def box(page, selector):
  return run(
    page,
    'const r = document.querySelector(arguments[0]).getBoundingClientRect();'
    'return [r.left, r.top, r.right, r.bottom]',
    selector,
  )


def fail(page):
  """Causes an error beside finished pictures."""
  drawn(page)
  enter(page, '#width input', 100)
  press(page)
  until(lambda: messages(page))


def test_an_error_is_announced_beside_the_pictures_and_can_be_closed(page):
  fail(page)
  assert pictures(page)
  inner, left, top = (
    box(page, s) for s in ('.sana-message', '#pictures', '#draw')
  )
  assert inner[2] <= left[0] and inner[1] >= top[3]
  assert page.find_elements('css selector', '[role=alert] .sana-message.error')
  assert not page.find_elements('css selector', '[data-testid=toast-body]')
  close = find(page, '.sana-message button')
  assert close.accessible_name == 'Close the message'
  close.send_keys(Keys.ENTER)
  assert not messages(page)
  press(page)  # The same error once more.
  until(lambda: messages(page))
  find(page, '#prompt textarea').send_keys(Keys.ESCAPE)
  assert not messages(page)


def test_an_error_closes_by_itself_unless_it_is_hovered(page):
  run(page, 'sana.messageSeconds = .6')
  fail(page)
  ActionChains(page).move_to_element(messages(page)[0]).perform()
  time.sleep(1.2)
  assert messages(page)
  ActionChains(page).move_to_element(find(page, '#stop')).perform()
  until(lambda: not messages(page), 3)


def test_words_outside_the_vocabulary_are_named(page):
  report = drawn(page, 'a red <b>dog</b> ${7*7} {{constructor}}')
  assert 'the words b, dog, 7, constructor.' in report
  assert 'Its 31 words are: a, above, an, ' in report
  assert 'trained' not in drawn(page, 'a red circle')


def test_an_example_draws_and_each_drawing_has_a_new_seed(page):
  examples = page.find_elements('css selector', '[data-example]')
  assert len(examples) == 6
  enter(page, '#steps input[type=number]', 2)
  examples[2].click()
  until(lambda: pictures(page))
  assert value(page, '#seed') in text(page, '#pictures')
  seeds = {value(page, '#seed')}
  assert run(
    page, 'return document.querySelector(arguments[0]).value', FIELDS[0]
  ) == ('three green stars')
  for _ in range(2):
    drawn(page)
    seeds.add(value(page, '#seed'))
  assert len(seeds) == 3
  find(page, '#keep input').click()
  drawn(page, 'a blue star')
  assert value(page, '#seed') in seeds
  assert f'seed {value(page, "#seed")}, number 0' in text(page, '#pictures')


def test_a_typed_seed_is_kept(page):
  enter(page, '#seed input', 5)
  drawn(page)
  assert value(page, '#seed') == '5'
  assert find(page, '#keep input').is_selected()


def test_previews_are_shown_in_the_places_of_the_pictures(page):
  enter(page, '#prompt textarea', 'a red circle')
  enter(page, '#steps input[type=number]', 50)
  press(page)
  find(page, '#pictures [data-unfinished] img', count=4)
  assert 'preview after step' in text(page, '#pictures')
  preview = box(page, '#pictures img')
  reported(page)
  np.testing.assert_allclose(box(page, '#pictures img'), preview, atol=1)


def test_the_history_shows_pictures_and_settings_again(page, shapes_demo):
  drawn(page, 'a green star')
  seed, first = value(page, '#seed'), run(page, MADE)
  enter(page, '#width input', 96)
  drawn(page, '<img src=x onerror="window.hacked=1">')
  find(page, '#history li img', count=2)
  find(page, '#history li:last-child button').click()
  until(lambda: run(page, MADE) == first)
  assert value(page, '#width') == '128' and value(page, '#seed') == seed
  assert value(page, '#aspect') == '1:1'
  assert find(page, '#keep input').is_selected()
  assert len(page.find_elements('css selector', '#history li')) == 2
  page.get(shapes_demo.address)  # Its pictures are dropped, the list is not.
  find(page, '#history li img', count=2)
  # The browser may have them in its cache.
  run(page, 'window.fetch = async () => ({ok: false})')
  find(page, '#history li:last-child button').click()
  assert 'no longer stores' in until(lambda: text(page, '.sana-message'))
  assert value(page, '#seed') == seed
  find(page, '#history [data-clear]').click()
  assert not page.find_elements('css selector', '#history li')
  assert not run(page, 'return window.hacked')


def test_the_history_is_bounded(page):
  grid = """
    const grid = document.createElement('div');
    grid.dataset.made = JSON.stringify({
      settings: {prompt: 'x', seed: arguments[0]},
      pictures: [{src: `data:${arguments[0]}`}]});
    return sana.remember(grid);
  """
  for i in range(30):
    run(page, grid, i)
  assert len(page.find_elements('css selector', '#history li')) == 24
  run(page, 'sessionStorage.setItem("x", "x".repeat(5e6))')
  run(page, grid, 30)  # The browser's storage is full.


@pytest.fixture
def png(tmp_path):
  """A picture with these settings."""

  def write(name='a.png', **changes):
    path = tmp_path / name
    metadata = about(REQUEST, SETTINGS, 'shapes') | changes
    images.write_png(path, np.zeros((96, 160, 3), np.uint8), metadata)
    return path

  return write


def give(page, path):
  """Chooses a file; returns the message."""
  run(page, 'sana.closeMessages()')
  find(page, '#drop input').send_keys(str(path))
  return until(lambda: text(page, '.sana-message p'))


def restored(page):
  prompt, negative = (
    run(page, f'return document.querySelector("{x} textarea").value')
    for x in ('#prompt', '#negative-prompt')
  )
  numbers = (value(page, x) for x in ('#seed', '#width', '#height', '#sampler'))
  steps, images = (
    run(page, f'return document.querySelector("{x} input[type=number]").value')
    for x in ('#steps', '#images')
  )
  return prompt, negative, *numbers, steps, images


def test_a_png_restores_its_settings(page, png):
  assert 'number 1 of its seed' in give(page, png())
  want = 'two blue squares', 'a star', '77', '160', '96', 'euler', '9', '2'
  until(lambda: restored(page) == want)
  assert value(page, '#aspect') == '16:9'
  assert find(page, '#keep input').is_selected()
  odd = '猫 <img src=x onerror="window.hacked=1"> ${1}'
  found = give(page, png('b.png', prompt=odd, model='<b>x', flow_shift=2.0))
  assert 'another model: <b>x' in found and 'flow_shift' in found
  until(lambda: restored(page)[0] == odd)
  assert not run(page, 'return window.hacked')


def test_a_dropped_png_restores_its_settings(page, png):
  data = png('c.png', prompt='dropped').read_bytes()
  run(
    page,
    """
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(arguments[0])], 'c.png'));
    for (const name of ['dragover', 'drop'])
      document.body.dispatchEvent(new DragEvent(
        name, {bubbles: true, cancelable: true, dataTransfer: data}));
  """,
    list(data),
  )
  until(lambda: restored(page)[0] == 'dropped')


def test_other_files_are_one_message(page, png, tmp_path):
  before = restored(page)
  plain = tmp_path / 'plain.png'
  images.write_png(plain, np.zeros((8, 8, 3), np.uint8))
  assert give(page, plain).startswith('This PNG holds no settings')
  text = tmp_path / 'text.png'
  for content in (b'', b'GIF89a' * 9, png().read_bytes()[:7]):
    text.write_bytes(content)
    assert give(page, text) == 'This file is not a PNG.'
  whole = png().read_bytes()
  for size in range(9, len(whole), 37):
    cut = whole[:size] + b'\xff' * 20
    cut_file = tmp_path / 'cut.png'
    cut_file.write_bytes(cut)
    assert give(page, cut_file)
  whole = whole.replace(b'prompt', b'pr\0mpt')
  text.write_bytes(whole)
  assert give(page, text).startswith('This PNG holds no settings')
  assert len(restored(page)) == len(before)


def test_the_keyboard_reaches_everything_and_all_has_a_name(page):
  drawn(page, 'a red circle')
  find(page, '#history li img')
  find(page, '#prompt textarea').click()
  names, parts = [], []
  for _ in range(60):
    active = page.switch_to.active_element
    if active.tag_name == 'body':
      break
    names.append(active.accessible_name)
    parts.append(
      run(
        page,
        'return arguments[0].find(x => arguments[1].closest("#" + x))',
        PARTS,
        active,
      )
    )
    ActionChains(page).send_keys(Keys.TAB).perform()
  assert all(names), list(zip(parts, names))
  order = dict.fromkeys(part for part in parts if part)
  assert list(order) == PARTS
  opened = find(page, '.sana-open')
  opened.send_keys(Keys.ENTER)
  assert find(page, 'dialog[open] p').text.endswith('number 0)')
  page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
  assert find(page, 'dialog[open] p').text.endswith('number 3)')
  page.switch_to.active_element.send_keys(Keys.ESCAPE)
  until(lambda: not page.find_elements('css selector', 'dialog[open]'))
  assert page.switch_to.active_element == opened


def test_a_narrow_window_has_one_column_and_no_scrolling_sideways(page):
  page.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride',
    {'width': 390, 'height': 844, 'deviceScaleFactor': 1, 'mobile': True},
  )
  drawn(page)
  request, result, settings = (
    box(page, x) for x in ('#request', '#result', '#settings')
  )
  assert request[3] <= result[1] and result[3] <= settings[1]
  assert run(page, 'return document.documentElement.scrollWidth') <= 390


def test_requests_one_after_another_fill_the_page(page):
  for prompt in ('a yellow star and a purple circle', 'three green stars'):
    drawn(page, prompt, steps=20)
  enter(page, '#seed input', 0)
  enter(page, '#prompt textarea', 'a red circle and a blue square')
  press(page)
  until(lambda: 'seed 0, number 3' in text(page, '#pictures'))
  find(page, '#history li img', count=3)
  if path := os.environ.get('SANA_JAX_SCREENSHOT'):
    time.sleep(1)  # Until the page is static.
    with Image.open(io.BytesIO(page.get_screenshot_as_png())) as image:
      cropped = image.convert('RGB').crop((0, 0, 1232, 945))
      coverage = Image.Quantize.MAXCOVERAGE
      cropped.quantize(256, coverage, 3, dither=0).save(path, optimize=True)
