"""Locks of folders: one run at a time writes into each.

    with locks.hold(locks.within(folder), 'training', '--workdir') as lock:
      ...
      lock.check()  # Before each save.

A lock is a claim, a small file that is created only where there is none, and a
heartbeat beside it that a thread renews. A claim ends when its holder releases
it, when the process that made it is gone (told on the same machine), when a
later attempt of the same supervised run takes it over from another machine, or
when its heartbeat is two minutes old. Readers take no lock.

Of clocks only the store's is used: ages are differences of modification times
in the same folder or bucket. A holder that was taken over stops by `check`.
"""

import collections.abc
import contextlib
import os
import signal
import threading

from sana_jax.locks import together
from sana_jax.locks.acquiring import acquire
from sana_jax.locks.claims import InUse, Lock, NAME, TERMS, Terms
from sana_jax.locks.stores import store_of
from sana_jax.paths import expanded

__all__ = ['InUse', 'Lock', 'TERMS', 'Terms', 'beside', 'hold', 'within']
_held: dict[tuple[str, int], Lock] = {}  # By place and thread.


def within(folder: str | os.PathLike) -> str:
  """The claim on all that is in a folder."""
  return f'{os.fspath(folder).rstrip("/") or "/"}/{NAME}'


def beside(path: str | os.PathLike) -> str:
  """The claim on a file or folder that is made elsewhere and then renamed."""
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
  """Holds the claim at `place` while the context lasts.

  Where this thread holds it already, that lock is yielded.

  Args:
    doing: for others, such as 'training'.
    flag: that names the folder, for messages.
    shared: held by process 0 for all processes of jax.distributed, which call
      this together and fail together.

  Raises:
    InUse: another run holds it.
    UserError: the place cannot be written.
  """
  if '://' not in place:
    place = os.path.abspath(expanded(place))
  key = place, threading.get_ident()
  if key in _held:
    yield _held[key]
    return
  store = store_of(place)
  processes = together.processes() if shared else together.ALONE
  lock = acquire(store, doing, flag, processes, terms)
  _held[key] = lock
  try:
    with lock, _released_by_sigterm(lock, processes):
      yield lock
      processes.meet('the folder is released')
  finally:
    del _held[key]


@contextlib.contextmanager
def _released_by_sigterm(lock, processes):
  """Releases the lock and exits with 143 on a SIGTERM that nobody handles.

  At once, as without a handler: a Python handler would wait for the compiler
  or the device. The C part of a signal handler writes to a pipe meanwhile.
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
  ours = lambda *_: None

  def wait():
    with open(reader, 'rb', buffering=0) as pipe:
      while number := pipe.read(1):
        if number[0] == signal.SIGTERM and (
          signal.getsignal(signal.SIGTERM) is ours
        ):
          lock.release()
          os._exit(128 + signal.SIGTERM)

  thread = threading.Thread(target=wait, name='lock: SIGTERM', daemon=True)
  before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  signal.signal(signal.SIGTERM, ours)
  thread.start()
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(before)
    os.close(writer)
    thread.join()
