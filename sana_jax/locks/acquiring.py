"""Acquisition of a claim, which is free or whose holder is gone.

A process that finds an expired claim first creates `.lock.over.DIGEST`, named
by the claim's content, so that only one of several processes removes the claim.
It then creates its own, unless another process was faster.
"""

import dataclasses
import hashlib
import json
import time
from typing import Any

from absl import logging

from sana_jax.errors import TransientError, UserError
from sana_jax.locks.claims import folder_of, InUse, Lock, Terms
from sana_jax.locks.holder import Holder, parse
from sana_jax.locks.process_group import Processes
from sana_jax.locks.stores import Store

_TRIES = 20  # Attempts per poll, if claims appear and disappear meanwhile.
_ERRORS = {'in use': InUse, 'transient': TransientError, 'invalid': UserError}


def acquire(
  store: Store, doing: str, flag: str, processes: Processes, terms: Terms
) -> Lock:
  """Blocks until the lock is held, and returns it.

  Raises:
    InUse: another run holds it.
    UserError: the claim cannot be written.
  """
  attempt = _Attempt(store, Holder.here(doing), flag, terms)
  while True:
    status = processes.broadcast(attempt.poll() if processes.index == 0 else {})
    if status['state'] == 'held':
      return Lock(store, status['claim'].encode(), flag, processes, terms)
    if status['state'] != 'waiting':
      store.close()
      raise _ERRORS[status['state']](status['message'])
    if processes.index == 0:
      time.sleep(terms.poll)


class _Attempt:
  """Repeated attempts to acquire one claim."""

  def __init__(self, store, mine, flag, terms):
    self._store, self._mine, self._flag = store, mine, flag
    self._terms, self._seen = terms, {}

  def poll(self) -> dict[str, Any]:
    """Tries once; 'state' is 'held', 'waiting' or a key of _ERRORS."""
    try:
      for _ in range(_TRIES):
        if status := self._try():
          return status
      return {'state': 'waiting'}
    except UserError as e:  # Such as a package that is not installed.
      return {'state': 'invalid', 'message': str(e)}
    except OSError as e:
      remote = '://' in self._store.place
      return {
        'state': 'transient' if remote else 'invalid',
        'message': (
          f'Writing {folder_of(self._store.place)} failed ({e.strerror or e}); '
          'check space and permissions there and start again, or choose '
          f'another {self._flag}.'
        ),
      }

  def _try(self):
    store = self._store
    if store.create('', self._content):
      store.renew(f'.{self._mine.token}')
      return self._held()
    found = store.read()
    if found is None:
      return None  # It was released meanwhile.
    if found == self._content(store.identity()):
      return self._held()  # The library retried a request that had succeeded.
    other = parse(found)
    beat = f'.{other.token}' if other else ''
    verdict = self._verdict(found, other, beat)
    if verdict == 'over':
      self._remove(found, beat)
      return None
    if verdict == 'alive':
      return {'state': 'in use', 'message': self._in_use_message(other)}
    return {'state': 'waiting'}

  def _held(self):
    claim = self._content(self._store.identity())
    return {'state': 'held', 'claim': claim.decode()}

  def _content(self, identity):
    return json.dumps(
      dataclasses.asdict(dataclasses.replace(self._mine, place=identity))
    ).encode()

  def _verdict(self, found, other, beat):
    """'over', 'alive', or '' if only waiting can decide."""
    alive = other.is_alive() if other else None
    if alive is False:
      return 'over'
    if alive and other.place == self._store.identity():
      return 'alive'
    if other and alive is None and other.is_succeeded_by(self._mine):
      return 'over'
    # A new claim has no heartbeat yet.
    sign = '' if self._store.modified(beat) is None else beat
    last, age = self._store.modified(sign), self._store.age(sign)
    if found not in self._seen:
      self._seen[found] = last, time.monotonic()
      self._announce(other, age)
    before, since = self._seen[found]
    if last != before:
      return 'alive'
    # The second one matters if the store's clock is wrong.
    age = max(age or 0.0, time.monotonic() - since)
    return 'over' if age >= self._terms.lease else ''

  def _announce(self, other, age):
    if (left := self._terms.lease - (age or 0.0)) > 0:
      logging.info(
        '%s is in use by %s; waiting at most %.0f s to check whether '
        'it is alive.',
        folder_of(self._store.place),
        other or 'an unknown process',
        left,
      )

  def _in_use_message(self, other):
    there = folder_of(self._store.place)
    return (
      f'{there} is in use by {other or "another process"}; wait until '
      f'it ends or end it, and start again, or choose another '
      f'{self._flag}.'
    )

  def _remove(self, found, beat):
    store = self._store
    over = f'.over.{hashlib.sha256(found).hexdigest()[:16]}'
    if not store.create(over, lambda _: b''):
      if (store.age(over) or 0.0) >= self._terms.lease:
        store.remove(over)  # Its process was killed before removing it.
      return
    try:
      if store.read() == found:
        if beat:
          store.remove(beat)
        store.remove('')
    finally:
      store.remove(over)
