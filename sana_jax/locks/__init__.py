"""Locks of folders: only one run at a time writes into a folder.

    with locks.hold(locks.within(folder), 'training', '--workdir') as lock:
      ...
      lock.check()  # Before each save.

A lock consists of a claim, a small file that is created exclusively, and a
heartbeat file next to it that a thread renews. A claim ends when its holder
releases it, when its process is gone (detected on the same machine), when a
later attempt of the same supervised run takes it over from another machine, or
when its heartbeat is two minutes old. Readers need no lock.

Only the store's clock is used: ages are differences of modification times in
the same folder or bucket. A holder that lost its lock stops in `check`.
"""

import collections.abc
import contextlib
import os
import signal
import threading

from sana_jax.locks import process_group
from sana_jax.locks.acquiring import acquire
from sana_jax.locks.claims import InUse, Lock, NAME, TERMS, Terms
from sana_jax.locks.stores import store_of
from sana_jax.paths import expanded

__all__ = ['InUse', 'Lock', 'TERMS', 'Terms', 'beside', 'hold', 'within']
_held: dict[tuple[str, int], Lock] = {}  # By path of the claim and thread.


def within(folder: str | os.PathLike) -> str:
  """Path of the claim on a folder's content."""
  return f'{os.fspath(folder).rstrip("/") or "/"}/{NAME}'


def beside(path: str | os.PathLike) -> str:
  """Path of the claim on a file or folder that is replaced as a whole."""
  folder, _, name = os.fspath(path).rstrip('/').rpartition('/')
  return f'{folder or "."}/.{name}{NAME}'


@contextlib.contextmanager
def hold(
  place: str,
  doing: str,
  flag: str,
  *,
  shared: bool = False,
  terms: Terms = TERMS,
) -> collections.abc.Iterator[Lock]:
  """Holds the claim at `place` in the context.

  Yields the existing lock if this thread already holds it.

  Args:
    place: path or URL of the claim, from `within` or `beside`.
    doing: what the run does, such as 'training', for messages.
    flag: the flag that sets the folder, for messages.
    shared: whether process 0 holds it for all processes of jax.distributed,
      which all call this and fail alike.

  Raises:
    InUse: another run holds it.
    UserError: the claim cannot be written.
  """
  if '://' not in place:
    place = os.path.abspath(expanded(place))
  key = place, threading.get_ident()
  if key in _held:
    yield _held[key]
    return
  store = store_of(place)
  processes = process_group.current() if shared else process_group.SINGLE
  lock = acquire(store, doing, flag, processes, terms)
  _held[key] = lock
  try:
    with lock, _released_by_sigterm(lock, processes):
      yield lock
      processes.barrier('the folder is released')
  finally:
    del _held[key]


@contextlib.contextmanager
def _released_by_sigterm(lock, processes):
  """Releases the lock and exits with 143 on an otherwise unhandled SIGTERM.

  This is immediate, as without a handler: a Python handler would wait for the
  compiler or the device, whereas the C handler writes to a pipe that a thread
  reads.
  """
  if (
    threading.current_thread() is not threading.main_thread()
    or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    or processes.handle_sigterm
  ):
    yield
    return
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  handler = lambda *_: None

  def wait():
    with open(reader, 'rb', buffering=0) as pipe:
      while number := pipe.read(1):
        if number[0] == signal.SIGTERM and (
          signal.getsignal(signal.SIGTERM) is handler
        ):
          lock.release()
          os._exit(128 + signal.SIGTERM)

  thread = threading.Thread(target=wait, name='lock: SIGTERM', daemon=True)
  before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  signal.signal(signal.SIGTERM, handler)
  thread.start()
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(before)
    os.close(writer)
    thread.join()
