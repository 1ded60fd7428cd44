"""The demo's queue: order, bound, and every way to leave it."""

import asyncio
import threading
import time

import pytest

from sana_jax.inference.request_queue import Full, RequestQueue, Stopped

pytestmark = pytest.mark.fast

SECONDS = 20.0


def until_stopped(stop):
  assert stop.wait(SECONDS)
  raise Stopped


async def started(line, work, **kwargs):
  """The request as a task that has entered the queue."""
  task = asyncio.ensure_future(line.run(work, **kwargs))
  await asyncio.sleep(0)
  return task


def test_requests_run_one_at_a_time_in_order():
  async def run():
    line, order, running = RequestQueue(8), [], threading.Lock()

    def work(number):
      with running:  # Not reentrant: a second thread would be seen.
        order.append(number)
      return number

    tasks = [await started(line, lambda stop, n=n: work(n)) for n in range(8)]
    assert await asyncio.gather(*tasks) == order == list(range(8))
    assert len(line) == 0

  asyncio.run(run())


def test_places_are_reported_while_a_request_waits():
  async def run():
    line, seen, go = RequestQueue(3), [], threading.Event()
    tasks = [
      await started(
        line,
        lambda stop: go.wait(SECONDS),
        on_place=lambda *p, n=n: seen.append((n, *p)),
      )
      for n in range(3)
    ]
    go.set()
    await asyncio.gather(*tasks)
    assert seen[:2] == [(1, 2, 2), (2, 3, 3)]
    assert (2, 2, 2) in seen

  asyncio.run(run())


def test_a_full_queue_refuses_and_serves_again_when_one_has_left():
  async def run():
    line = RequestQueue(2)
    first = await started(line, until_stopped, owner='a')
    second = await started(line, lambda stop: 'drawn')
    with pytest.raises(Full, match='2'):
      await line.run(lambda stop: None)
    line.leave('a')
    with pytest.raises(Stopped):
      await first
    assert await second == 'drawn'
    assert await line.run(lambda stop: 'again') == 'again'

  asyncio.run(run())


@pytest.mark.parametrize('waiting', [False, True])
@pytest.mark.parametrize('how', ['leave', 'cancel'])
def test_a_request_can_be_stopped_wherever_it_is(how, waiting):
  async def run():
    line = RequestQueue(4)
    first = await started(line, until_stopped, owner='first')
    task = first
    if waiting:
      task = await started(line, until_stopped, owner='mine')
    if how == 'cancel':
      task.cancel()
    else:
      line.leave('mine' if waiting else 'first')
    with pytest.raises((Stopped, asyncio.CancelledError)):
      await task
    line.leave('first')
    assert await line.run(lambda stop: 3) == 3
    await asyncio.gather(first, return_exceptions=True)
    assert len(line) == 0

  asyncio.run(run())


def test_a_failure_leaves_the_queue_usable():
  async def run():
    line = RequestQueue(1)
    for _ in range(3):
      with pytest.raises(ZeroDivisionError):
        await line.run(lambda stop: 1 / 0)
    assert len(line) == 0

  asyncio.run(run())


def test_closing_stops_all_and_does_not_wait_for_a_stuck_thread():
  async def run():
    line, go = RequestQueue(3), threading.Event()
    stuck = await started(line, lambda stop: go.wait(SECONDS))
    waiting = await started(line, lambda stop: 1)
    start = time.monotonic()
    assert not line.close(0.05)
    assert time.monotonic() - start < 5
    go.set()
    await stuck
    assert line.close(SECONDS)
    with pytest.raises(Stopped):
      await waiting
    with pytest.raises(Stopped):
      await line.run(lambda stop: 1)

  asyncio.run(run())
