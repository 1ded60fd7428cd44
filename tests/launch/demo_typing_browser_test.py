"""A SANA-Sprint draws while its prompt is typed; another model does not."""

import shutil
import time

from demo_browser import find, text, until, value
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

from sana_jax.weights import additions, hub
from sana_jax.weights import folder as folders

pytestmark = pytest.mark.browser
MADE = 'return document.querySelector("#pictures [data-made]")?.dataset.made'
PARTS = {'guidance_embeds': True, 'timestep_scale': 0.001}


@pytest.fixture(scope='module')
def sprint_demo(served, tmp_path_factory):
  """The demo of the shipped model with the parts of a Sprint, untrained."""
  shipped = hub.find('shapes')
  folder = tmp_path_factory.mktemp('sprint') / 'model'
  shutil.copytree(shipped, folder)
  model = folders.load(shipped, 'transformer', jnp.float32)
  target = model.module.clone(**PARTS)
  params = additions.adapted(
    model.variables['params'], model.module, target, jax.random.key(0)
  )
  shutil.rmtree(folder / 'transformer')
  folders.write(
    folder, 'transformer', target, {'params': jax.tree.map(np.asarray, params)}
  )
  folders.index_sprint(folder)
  return served(str(folder))


def made(page):
  return page.execute_script(MADE)


def unmarked(page):
  """Whether the mark is off, and stays so; clicks it if it is on.

  The page draws its widgets again while it starts.
  """
  mark = find(page, '#typing input')
  if mark.is_selected():
    mark.click()
  time.sleep(0.5)
  return not find(page, '#typing input').is_selected()


def test_pictures_follow_the_words_with_the_same_seed(browser, sprint_demo):
  browser.get(sprint_demo.address)
  prompt = find(browser, '#prompt textarea')
  prompt.send_keys('a red circle')
  until(lambda: made(browser))
  first, seed = made(browser), value(browser, '#seed')
  prompt.send_keys(Keys.BACKSPACE * 6 + 'square')
  until(lambda: made(browser) not in (first, None))
  until(lambda: 'square' in prompt.get_property('value'))
  assert value(browser, '#seed') == seed
  assert 'Traceback' not in sprint_demo.log.read_text()


def test_without_the_mark_only_the_button_draws(browser, sprint_demo):
  browser.get(sprint_demo.address)
  prompt = find(browser, '#prompt textarea')
  until(lambda: unmarked(browser))
  prompt.send_keys('a red circle')
  time.sleep(1.5)
  assert made(browser) is None and not text(browser, '#progress').strip()


def test_a_model_of_many_steps_has_no_such_mark(page):
  assert not page.find_elements('css selector', '#typing')
