"""Request queue of the demo: one request is drawn at a time, in order.

The page and the JSON interface share it. A request leaves it however it ends:
drawn, rejected, stopped by its owner, or cancelled by a disconnect.
"""

import asyncio
from collections.abc import Callable
import concurrent.futures
import contextvars
import threading
from typing import TypeVar

from sana_jax.errors import UserError

T = TypeVar('T')


class Full(UserError):
  """The queue is full."""


class Stopped(Exception):
  """The owner of a request stopped it or disconnected."""


class _Turn:
  """A request in the queue."""

  def __init__(self, owner: str):
    self.owner = owner
    self.stop = threading.Event()
    self.moved = asyncio.Event()


class RequestQueue:
  """A queue of at most `most` requests, including the one being drawn.

  All methods except `close` must be called on the event loop's thread.
  """

  def __init__(self, most: int):
    self.most = most
    self._turns = []
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'draw')
    self._work = None

  def __len__(self) -> int:
    return len(self._turns)

  async def run(
    self,
    work: Callable[[threading.Event], T],
    owner: str = '',
    on_place: Callable[[int, int], None] = lambda place, length: None,
  ) -> T:
    """Result of `work(stop)`, run on the drawing thread.

    Args:
      work: must raise Stopped soon after `stop` is set.
      on_place: called with the place in the queue and its length while waiting.

    Raises:
      Full: the queue is full; nothing was done.
      Stopped: `leave` was called for the owner, or the queue was closed.
    """
    if len(self._turns) >= self.most:
      raise Full(
        f'The queue is full: {self.most} requests are being drawn or '
        'waiting; try again later.'
      )
    turn = _Turn(owner)
    self._turns.append(turn)
    try:
      while turn is not self._turns[0] and not turn.stop.is_set():
        on_place(self._turns.index(turn) + 1, len(self._turns))
        turn.moved.clear()
        await turn.moved.wait()
      return await self._worked(work, turn.stop)
    finally:
      turn.stop.set()
      self._turns.remove(turn)
      for other in self._turns:
        other.moved.set()

  def leave(self, owner: str) -> None:
    """Stops all requests of the owner."""
    for turn in self._turns:
      if turn.owner == owner:
        turn.stop.set()
        turn.moved.set()

  def close(self, seconds: float) -> bool:
    """Stops all requests; returns whether the thread is idle in time."""
    for turn in list(self._turns):
      turn.stop.set()
    self._thread.shutdown(wait=False, cancel_futures=True)
    work = self._work
    return work is None or not concurrent.futures.wait([work], seconds).not_done

  async def _worked(self, work, stop):
    if stop.is_set():
      raise Stopped
    context = contextvars.copy_context()
    try:
      self._work = self._thread.submit(context.run, work, stop)
    except RuntimeError as e:  # The thread was shut down.
      raise Stopped from e
    # Cancelling this awaitable drops work queued for the thread; running work
    # ends at its next check of `stop`.
    return await asyncio.wrap_future(self._work)
