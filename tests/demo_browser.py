"""A headless browser on the demo's page, for tests."""

import contextlib
import os
import pathlib
import time

SECONDS = 90  # A first picture is compiled, and the machine may be busy.
_FLAGS = (
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--window-size=1280,1090',
  '--hide-scrollbars',
  '--force-device-scale-factor=1',
)


@contextlib.contextmanager
def opened(downloads: pathlib.Path):
  """A browser that stores downloads in that folder."""
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  for flag in _FLAGS:
    options.add_argument(flag)
  options.add_experimental_option(
    'prefs', {'download.default_directory': str(downloads)}
  )
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
  # The driver is named, so that none is searched on the network.
  service = webdriver.ChromeService(
    os.environ.get('CHROMEDRIVER', '/usr/bin/chromedriver')
  )
  with webdriver.Chrome(options, service) as driver:
    yield driver


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
  message = until(lambda: text(browser, '.sana-message p'))
  find(browser, '.sana-message button').click()
  return message.strip()


def pictures(browser):
  return browser.find_elements('css selector', '#pictures [data-made] img')


def value(browser, selector):
  return browser.execute_script(
    'return document.querySelector(arguments[0] + " input").value', selector
  )
