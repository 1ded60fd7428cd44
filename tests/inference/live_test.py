"""Views of a request: queue, steps, previews, pictures, errors."""

import asyncio
import html
import json
import re

import pytest

from sana_jax.inference import live, view
from sana_jax.inference.album import Album
from sana_jax.inference.demo import DrawRequest, File, FILES, Limits
from sana_jax.inference.live import Drawer
from sana_jax.inference.request_queue import RequestQueue

REQUEST = DrawRequest('a red circle', '', 16, 16, 10, 4.5, 7, 2, 'dpm++2m')
HOSTILE = '"><script>alert(1)</script>${1}{{x}}`\\\'&'


def views(pipe, request=REQUEST, *, previews=4, most=4):
  """All views of a request."""

  async def run():
    line = RequestQueue(most)
    drawer = Drawer(pipe, 'tiny', Limits(64, 30, 4, previews), line, Album())
    return [shown async for shown in drawer.views(request, 'me')]

  return asyncio.run(run())


@pytest.mark.long
def test_a_request_shows_steps_previews_and_then_its_pictures(
  pipe, monkeypatch
):
  monkeypatch.setattr(live, '_SECONDS', 0.0)
  shown = views(pipe)
  assert {x.seed for x in shown} == {7}
  *unfinished, last = shown
  assert 'compiled first' in unfinished[0].progress
  bars = [x.progress for x in unfinished]
  assert any(re.search('value="[1-9]".*Step [1-9] of 10', x) for x in bars)
  assert all('data-unfinished' in x.pictures for x in unfinished)
  assert any(x.pictures.count('data:image/jpeg') == 2 for x in unfinished)
  made = re.search('data-made="([^"]*)"', last.pictures)[1]
  made = json.loads(html.unescape(made))
  want = REQUEST._asdict()
  for key in FILES:
    del want[key]
  assert made['settings'] == want
  assert [x['caption'] for x in made['pictures']] == [
    'seed 7, number 0',
    'seed 7, number 1',
  ]
  assert (last.progress, last.error) == ('', '')
  assert last.status.startswith('<p>2 pictures in ')


def test_no_previews_are_made_if_none_are_allowed(pipe):
  assert not any('data:image' in x.pictures for x in views(pipe, previews=0))


def test_an_early_error_leaves_the_pictures_of_before(pipe):
  for _ in range(2):
    (shown,) = views(pipe, REQUEST._replace(prompt=''))
    assert shown.pictures is shown.status is shown.seed is None
    assert 'prompt' in shown.error
  again = views(pipe, REQUEST._replace(prompt=''))[0].error
  assert again != shown.error  # Otherwise the page would not show it twice.
  (full,) = views(pipe, most=0)
  assert full.error and full.pictures is None


def test_a_late_error_removes_previews_and_shows_no_reason(
  pipe, caplog, monkeypatch
):
  def decode(*_):
    raise RuntimeError('/secret/path')

  monkeypatch.setattr(type(pipe), 'decode', decode)
  *_, last = views(pipe)
  assert last.pictures == '' and live.FAILED in last.error
  assert '/secret' not in str(last) and '/secret' in caplog.text


def test_a_request_in_a_queue_shows_its_place(pipe):
  async def run():
    line = RequestQueue(4)
    drawer = Drawer(pipe, 'tiny', Limits(64, 30, 4), line, Album())
    first = asyncio.ensure_future(line.run(lambda stop: stop.wait(20), 'other'))
    await asyncio.sleep(0)
    found = []
    async for shown in drawer.views(REQUEST, 'me'):
      found.append(shown)
      line.leave('other')
    await first
    return found

  found = asyncio.run(run())
  assert 'Place 2 of 2 in the queue' in found[0].progress
  assert 'data-made' in found[-1].pictures


def test_a_stopped_request_is_reported(pipe):
  async def run():
    line = RequestQueue(4)
    drawer = Drawer(pipe, 'tiny', Limits(64, 1000, 4), line, Album())
    found = []
    async for shown in drawer.views(REQUEST._replace(steps=1000), 'me'):
      found.append(shown)
      line.leave('me')
    return found, len(line)

  found, waiting = asyncio.run(run())
  assert found[-1].pictures == '' and found[-1].status == '<p>Stopped.</p>'
  assert waiting == 0


def test_a_closed_page_ends_its_request(pipe):
  async def run():
    line = RequestQueue(4)
    drawer = Drawer(pipe, 'tiny', Limits(64, 1000, 4), line, Album())
    shown = drawer.views(REQUEST._replace(steps=1000), 'me')
    await anext(shown)
    await shown.aclose()
    await asyncio.sleep(0)
    return len(line)

  assert asyncio.run(run()) == 0


@pytest.mark.fast
def test_no_text_of_a_request_is_markup_or_a_template():
  request = REQUEST._replace(prompt=HOSTILE, negative_prompt=HOSTILE)
  file = File(HOSTILE, HOSTILE, b'')
  for text in (
    view.pictures(request, [file], [HOSTILE]),
    view.previews(request, [b'x'], 3),
    view.progress(HOSTILE, 1, 2),
    view.status(HOSTILE, [HOSTILE]),
    view.error(HOSTILE),
    view.examples([HOSTILE]),
  ):
    assert '<script' not in text and not set('{}$`\\') & set(text)
    assert 'alert' in text
  assert '<script>alert' not in view.config(model='</script><script>alert(1)')
