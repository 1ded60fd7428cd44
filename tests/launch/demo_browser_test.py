"""The demo in a real browser: display, input, and downloads.

Needs Chromium and its driver (Debian: chromium-driver):
launch/test -m browser. SANA_JAX_SCREENSHOT=docs/demo.png makes the picture in
the docs again.
"""

import os
import pathlib
import time

from PIL import Image
import pytest

from sana_jax.version import __version__

pytestmark = pytest.mark.browser
PROMPT = 'a red circle left of a blue square'
SECONDS = 30  # A first picture is compiled.


@pytest.fixture(scope='module')
def server(served):
  return served('shapes')


@pytest.fixture(scope='module')
def patient(served):
  """Allows a run of more than a minute."""
  return served('shapes', '--max-steps', '1000')


@pytest.fixture
def downloads(tmp_path):
  return tmp_path


@pytest.fixture
def browser(downloads):
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  for flag in (
    '--headless=new',
    '--no-sandbox',
    '--disable-dev-shm-usage',
    '--window-size=1280,930',
    '--hide-scrollbars',
    '--force-device-scale-factor=1',
  ):
    options.add_argument(flag)
  options.add_experimental_option(
    'prefs', {'download.default_directory': str(downloads)}
  )
  options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
  # The driver is named, so that none is searched on the network.
  service = webdriver.ChromeService(
    os.environ.get('CHROMEDRIVER', '/usr/bin/chromedriver')
  )
  with webdriver.Chrome(options, service) as driver:
    yield driver


@pytest.fixture
def page(browser, server):
  browser.get(server.address)
  find(browser, '#prompt textarea')
  yield browser
  assert 'Traceback' not in server.log.read_text()


def until(true, seconds=SECONDS):
  """The first true value of `true()`."""
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    if value := true():
      return value
    time.sleep(0.05)
  raise AssertionError(f'not true within {seconds} s')


def find(browser, selector, count=1):
  """The first element, as soon as there are as many."""

  def there():
    found = browser.find_elements('css selector', selector)
    return found if len(found) >= count else None

  return until(there)[0]


def text(browser, selector):
  """What the element shows, which may be redrawn at any time."""
  return browser.execute_script(
    'return document.querySelector(arguments[0])?.innerText ?? ""', selector
  )


def enter(browser, selector, value):
  """Puts a value into a field; a driver cannot type every character."""
  field = find(browser, selector)
  browser.execute_script(
    """
    const [field, value] = arguments;
    const kind = Object.getPrototypeOf(field);
    Object.getOwnPropertyDescriptor(kind, 'value').set.call(field, value);
    for (const name of ['input', 'change', 'blur'])
      field.dispatchEvent(new Event(name, {bubbles: true}));
  """,
    field,
    str(value),
  )


def press(browser, button='draw'):
  find(browser, f'#{button}').click()


def reported(browser):
  return until(
    lambda: 'picture' in (found := text(browser, '#status')) and found
  )


def refused(browser):
  """Returns the error for bad input, and closes it."""
  message = until(lambda: text(browser, '[data-testid=toast-text]'))
  find(browser, '[data-testid=toast-close]').click()
  return message.strip()


def pictures(browser):
  return browser.find_elements('css selector', '#gallery .thumbnail-item img')


def test_pictures_appear_and_nothing_is_loaded_from_elsewhere(page, server):
  enter(page, '#prompt textarea', 'a red circle and a blue square')
  press(page)
  find(page, '#gallery .thumbnail-item img', count=4)
  assert reported(page).startswith('4 pictures in ')
  loaded = page.execute_script(
    'return performance.getEntriesByType("resource").map(x => x.name)'
  )
  assert loaded
  assert not [
    x for x in loaded if not x.startswith((server.address, 'data:', 'blob:'))
  ]
  if path := os.environ.get('SANA_JAX_SCREENSHOT'):
    time.sleep(1)  # Until the page is static.
    page.save_screenshot(path)


def test_each_step_is_shown(page):
  enter(page, '#prompt textarea', PROMPT)
  enter(page, '#steps input[type=number]', 50)
  press(page)
  seen = set()

  def done():
    seen.add(text(page, '#gallery').split(' ')[0])
    return pictures(page)

  until(done)
  steps = {x for x in seen if x.endswith('/50')}
  assert len(steps) >= 3, seen


def test_a_downloaded_picture_records_how_it_was_made(page, downloads):
  enter(page, '#prompt textarea', PROMPT)
  enter(page, '#negative-prompt textarea', 'green')
  enter(page, '#seed input', 11)
  press(page)
  find(page, '#gallery .thumbnail-item').click()
  find(
    page, '#gallery button[aria-label="Download"], #gallery a[download]'
  ).click()
  (path,) = until(lambda: list(downloads.glob('*.png')))
  assert path.name == 'a-red-circle-left-of-a-blue-square-11-0.png'
  with Image.open(path) as image:
    assert image.size == (128, 128)
    assert image.text == {
      'prompt': PROMPT,
      'negative_prompt': 'green',
      'seed': '11',
      'number': '0',
      'height': '128',
      'width': '128',
      'steps': '20',
      'guidance_scale': '3.0',
      'sampler': 'dpm++2m',
      'model': 'shapes',
      'version': f'sana_jax {__version__}',
    }


@pytest.mark.parametrize(
  'selector, value, expected',
  [
    ('#prompt textarea', '', 'prompt is empty; describe a picture.'),
    (
      '#width input',
      99999,
      'width is 99999; give a whole number from 32 to 256.',
    ),
    (
      '#width input',
      '',
      'width is missing; give a whole number from 32 to 256.',
    ),
    (
      '#height input',
      100,
      'height is 100; it must be a multiple of the '
      "autoencoder's compression, 32, such as 96.",
    ),
    (
      '#seed input',
      -1,
      'seed is -1; give a whole number from 0 to 2147483647.',
    ),
  ],
)
def test_bad_input_is_a_one_line_error(page, selector, value, expected):
  enter(page, '#prompt textarea', PROMPT)
  enter(page, selector, value)
  press(page)
  assert refused(page) == expected


@pytest.mark.parametrize(
  'prompt, cut',
  [
    ('red circle ' * 910, True),
    ('🙂🎨 🟥', False),
    ('猫在沙发上', False),
    ('<script>alert(1)</script>', False),
  ],
)
def test_any_text_is_drawn(page, prompt, cut):
  enter(page, '#prompt textarea', prompt)
  press(page)
  assert ('its end is ignored' in reported(page)) == cut
  assert len(pictures(page)) == 4


def test_an_aspect_sets_the_size_and_a_typed_size_the_aspect(page):
  find(page, '#aspect input').click()
  option = until(
    lambda: [
      x
      for x in page.find_elements('css selector', '[role=option]')
      if x.text.strip() == '16:9'
    ]
  )[0]
  option.click()
  until(lambda: value(page, '#width') == '160')
  assert value(page, '#height') == '96'
  enter(page, '#width input', 192)
  until(lambda: value(page, '#aspect') == 'own')


def value(browser, selector):
  return browser.execute_script(
    'return document.querySelector(arguments[0] + " input").value', selector
  )


def test_two_tabs_are_served_at_once(page, server):
  first = page.current_window_handle
  page.switch_to.new_window('tab')
  page.get(server.address)
  second = page.current_window_handle
  for tab, seed in ((first, 1), (second, 2)):
    page.switch_to.window(tab)
    enter(page, '#prompt textarea', PROMPT)
    enter(page, '#seed input', seed)
    press(page)
  for tab, seed in ((first, 1), (second, 2)):
    page.switch_to.window(tab)
    reported(page)
    assert f'seed {seed}, number 0' in text(page, '#gallery')


def test_a_stopped_run_ends(page, patient):
  start_a_long_run(page, patient)
  press(page, 'stop')
  until(lambda: text(page, '#status').strip() == 'Stopped.')
  enter(page, '#steps input[type=number]', 2)
  press(page)
  reported(page)  # The run would take longer than we wait.


def test_a_closed_tab_ends_its_run_and_the_server_goes_on(page, patient):
  page.get(patient.address)
  other = page.current_window_handle
  page.switch_to.new_window('tab')
  start_a_long_run(page, patient)
  page.close()
  page.switch_to.window(other)
  enter(page, '#prompt textarea', PROMPT)
  press(page)
  reported(page)


def start_a_long_run(page, patient):
  """Until it is under way."""
  page.get(patient.address)
  enter(page, '#prompt textarea', PROMPT)
  for side in ('width', 'height'):
    enter(page, f'#{side} input', 256)
  enter(page, '#steps input[type=number]', 1000)
  press(page)
  until(lambda: '/1000 steps' in text(page, '#gallery'))


def test_the_picture_of_the_docs_is_small():
  path = pathlib.Path(__file__).parents[2] / 'docs' / 'demo.png'
  assert path.stat().st_size < 300_000
