"""A request of the demo's page while it waits, is sampled and is finished."""

import asyncio
from collections.abc import AsyncIterator, Callable
import contextlib
import functools
import logging

from sana_jax.errors import UserError
from sana_jax.inference import demo, view
from sana_jax.inference.album import Album
from sana_jax.inference.demo import DrawRequest, Limits
from sana_jax.inference.previews import Previewer
from sana_jax.inference.request_queue import RequestQueue, Stopped
from sana_jax.inference.view import View

FAILED = 'The picture could not be drawn; the log of the demo has the reason.'
_SECONDS = 0.05  # Between two views, so that fast steps are few messages.


class Drawer:
  """Draws the requests of pages; `views` is of one request."""

  def __init__(
    self, pipe, model: str, limits: Limits, line: RequestQueue, album: Album
  ):
    self._pipe, self._model, self._limits = pipe, model, limits
    self._line, self._album = line, album
    self._previewer = Previewer(pipe, limits.previews)

  async def views(
    self, request: DrawRequest, owner: str
  ) -> AsyncIterator[View]:
    """Views of a request, up to its pictures or its error."""
    unfinished = None  # An early error leaves the pictures of before.
    try:
      request = demo.check(self._pipe, request, self._limits)
      async with contextlib.aclosing(self._drawn(request, owner)) as views:
        async for shown in views:
          yield shown
          unfinished = ''
    except UserError as e:
      yield View(unfinished, '', unfinished, view.error(str(e)))
    except Stopped:
      yield View(unfinished, status=view.status('Stopped.'))
    except Exception as e:  # Its text may name files of this machine.
      logging.getLogger(__name__).error('A request failed', exc_info=e)
      yield View(unfinished, '', unfinished, view.error(FAILED))

  async def _drawn(self, request, owner):
    changes: asyncio.Queue = asyncio.Queue()
    post = functools.partial(
      asyncio.get_running_loop().call_soon_threadsafe, changes.put_nowait
    )
    drawing = asyncio.ensure_future(
      self._line.run(
        self._work(request, post),
        owner,
        lambda place, length: changes.put_nowait(
          {'progress': view.progress(f'Place {place} of {length} in the queue')}
        ),
      )
    )
    drawing.add_done_callback(lambda _: changes.put_nowait(None))
    shown = View(view.previews(request, [], 0), seed=request.seed)
    try:
      while (change := await changes.get()) is not None:
        shown = shown._replace(**change)
        if changes.empty():
          yield shown
          await asyncio.sleep(_SECONDS)
      files, report, notes = drawing.result()
    finally:
      drawing.cancel()
    paths = [f'/pictures/{x}' for x in self._album.add(owner, files)]
    yield View(
      view.pictures(request, files, paths),
      status=view.status(report, notes),
      seed=request.seed,
    )

  def _work(self, request, post) -> Callable:
    """Work of the drawing thread, which posts changes of the view."""

    def show(done, files):
      post({'pictures': view.previews(request, files, done)})

    def on_step(done):
      text = f'Step {done} of {request.evaluations}'
      if done == request.evaluations:
        text = 'Decoding'
      post({'progress': view.progress(text, done, request.evaluations)})

    def work(stop):
      text = 'Encoding the prompt; a new size is compiled first'
      post({'progress': view.progress(text)})
      size = request.height, request.width
      return demo.drawn(
        self._pipe,
        request,
        self._limits,
        self._model,
        stop,
        on_step,
        self._previewer.watch(request.evaluations, size, show),
      )

    return work
