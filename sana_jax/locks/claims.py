"""A held claim: renewed by a thread, lost, or released.

The heartbeat `.lock.TOKEN` is a file separate from the claim `.lock`, so that a
holder that was disconnected for long cannot overwrite its successor's claim.
"""

import os
import threading
from typing import NamedTuple

from absl import logging

from sana_jax.errors import TransientError
from sana_jax.locks.holder import parse
from sana_jax.locks.process_group import Processes
from sana_jax.locks.stores import Store
from sana_jax.printable import printable


class Terms(NamedTuple):
  """Times of a lease in seconds.

  Attributes:
    lease: from the last heartbeat to the end of a claim.
    renew: between heartbeats.
    poll: between checks of the claim of a holder that may be gone.
  """

  lease: float = 120.0
  renew: float = 20.0
  poll: float = 2.0


TERMS = Terms()
NAME = '.lock'


class InUse(TransientError):
  """Another run holds the lock."""


class Lock:
  """A claim held by process 0; a context manager that releases it on exit."""

  def __init__(
    self,
    store: Store,
    claim: bytes,
    flag: str,
    processes: Processes,
    terms: Terms,
  ):
    self._store, self._claim, self._flag = store, claim, flag
    self._processes, self._terms = processes, terms
    self._beat = f'.{parse(claim).token}'
    self._closed = threading.Event()
    self._release, self._lost = threading.Lock(), threading.Event()
    self._thread = threading.Thread(
      target=self._renew_each, name='lock', daemon=True
    )
    self.on_loss = lambda: None  # Called in the renewing thread.

  def __enter__(self):
    if self._processes.index == 0:
      self._thread.start()
    return self

  def __exit__(self, *_):
    if self._processes.index == 0:
      self._closed.set()
      self._thread.join(self._terms.renew)
      self.release()

  @property
  def is_lost(self) -> bool:
    """Whether a loss has been detected, by the last heartbeat or check."""
    return self._lost.is_set()

  def is_ours(self) -> bool:
    """Reads the claim and returns whether it is still this run's.

    An unreachable store leaves the last known state unchanged.
    """
    try:
      found = self._store.read()
    except OSError:
      return not self.is_lost
    if found != self._claim:
      self._lost.set()
    return not self.is_lost

  def check(self) -> None:
    """Raises InUse if this run no longer holds the claim."""
    if not self.is_ours():
      raise self._in_use(self._loss())

  def check_together(self) -> None:
    """Raises InUse in all processes, which must all call this."""
    status = {'message': ''}
    if self._processes.index == 0 and not self.is_ours():
      status['message'] = self._loss()
    if message := self._processes.broadcast(status)['message']:
      raise self._in_use(message)

  def release(self) -> None:
    """Removes the claim if it is still ours; idempotent."""
    with self._release:
      try:
        if self._store.read() == self._claim:
          self._store.remove('')
        self._store.remove(self._beat)
        self._store.close()
      except OSError as e:
        logging.warning(
          '%s cannot be removed (%s); it expires.', self._store.place, e
        )

  def _in_use(self, message):
    return InUse(message, key=self._flag, value=folder_of(self._store.place))

  def _loss(self):
    folder = folder_of(self._store.place)
    try:
      other = parse(self._store.read() or b'')
    except OSError:
      other = None
    by = f'by {other}' if other else 'or its claim was removed'
    return (
      f'{folder} was taken over {by}, since this run had not renewed its '
      f'lock for {self._terms.lease:.0f} s; this run ends without saving '
      f'again. Start it again later, or choose another '
      f'{self._flag}.'
    )

  def _renew_each(self):
    failed = False
    while not self._closed.wait(self._terms.renew):
      try:
        if not self.is_ours():
          self.on_loss()
          return
        self._store.renew(self._beat)
        failed = False
      except OSError as e:
        if not failed:
          logging.warning(
            'The lock %s cannot be renewed (%s); after %.0f s '
            'others may take it over.',
            self._store.place,
            e,
            self._terms.lease,
          )
        failed = True


def folder_of(place):
  """The locked folder or file of a claim, for messages."""
  folder, name = os.path.split(place)
  return printable(
    folder
    if name == NAME
    else os.path.join(folder, name.removeprefix('.').removesuffix(NAME)),
    500,
  )
