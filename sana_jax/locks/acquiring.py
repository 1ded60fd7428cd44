"""How a claim is acquired, from nobody or from a holder that is gone.

Who finds that a claim has ended creates `.lock.over.DIGEST` first, named by the
claim's content: of several processes one alone removes that claim, and then
creates its own unless another was faster.
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
from sana_jax.locks.stores import Store
from sana_jax.locks.together import Processes

_TRIES = 20  # Claims that come and go at one look.
_KINDS = {'in use': InUse, 'trouble': TransientError, 'mistake': UserError}


def acquire(
  store: Store, doing: str, flag: str, processes: Processes, terms: Terms
) -> Lock:
  """The lock, once it is held.

  Raises:
    InUse: another run holds it.
    UserError: the place cannot be written.
  """
  attempt = _Attempt(store, Holder.here(doing), flag, terms)
  while True:
    status = processes.broadcast(attempt.look() if processes.index == 0 else {})
    if status['state'] == 'held':
      return Lock(store, status['claim'].encode(), flag, processes, terms)
    if status['state'] != 'waiting':
      store.close()
      raise _KINDS[status['state']](status['said'])
    if processes.index == 0:
      time.sleep(terms.poll)


class _Attempt:
  """The attempts to acquire one claim."""

  def __init__(self, store, mine, flag, terms):
    self._store, self._mine, self._flag = store, mine, flag
    self._terms, self._seen = terms, {}

  def look(self) -> dict[str, Any]:
    """Tries once; 'state' is held, waiting or a key of _KINDS."""
    try:
      for _ in range(_TRIES):
        if status := self._try():
          return status
      return {'state': 'waiting'}
    except UserError as e:  # Such as a package that is not installed.
      return {'state': 'mistake', 'said': str(e)}
    except OSError as e:
      remote = '://' in self._store.place
      return {
        'state': 'trouble' if remote else 'mistake',
        'said': (
          f'Writing {folder_of(self._store.place)} failed ({e.strerror or e}); '
          'see to space and permissions there and start again, or choose '
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
      return self._held()  # A retry of the library's found the first one.
    theirs = parse(found)
    beat = f'.{theirs.token}' if theirs else ''
    verdict = self._verdict(found, theirs, beat)
    if verdict == 'over':
      self._remove(found, beat)
      return None
    if verdict == 'alive':
      return {'state': 'in use', 'said': self._sentence(theirs)}
    return {'state': 'waiting'}

  def _held(self):
    claim = self._content(self._store.identity())
    return {'state': 'held', 'claim': claim.decode()}

  def _content(self, identity):
    return json.dumps(
      dataclasses.asdict(dataclasses.replace(self._mine, place=identity))
    ).encode()

  def _verdict(self, found, theirs, beat):
    """'over', 'alive', or '' for what only time can tell."""
    alive = theirs.is_alive() if theirs else None
    if alive is False:
      return 'over'
    if alive and theirs.place == self._store.identity():
      return 'alive'
    if theirs and alive is None and theirs.is_succeeded_by(self._mine):
      return 'over'
    # A claim that was made a moment ago has no heartbeat yet.
    sign = '' if self._store.modified(beat) is None else beat
    last, age = self._store.modified(sign), self._store.age(sign)
    if found not in self._seen:
      self._seen[found] = last, time.monotonic()
      self._announce(theirs, age)
    before, since = self._seen[found]
    if last != before:
      return 'alive'
    # The second counts if the store's clock goes wrong.
    age = max(age or 0.0, time.monotonic() - since)
    return 'over' if age >= self._terms.lease else ''

  def _announce(self, theirs, age):
    if (left := self._terms.lease - (age or 0.0)) > 0:
      logging.info(
        '%s is in use by %s; waiting %.0f s at most to see whether '
        'that is alive.',
        folder_of(self._store.place),
        theirs or 'an unknown process',
        left,
      )

  def _sentence(self, theirs):
    there = folder_of(self._store.place)
    return (
      f'{there} is in use by {theirs or "another process"}; wait until '
      f'it ends or end it, and start again, or choose another '
      f'{self._flag}.'
    )

  def _remove(self, found, beat):
    store = self._store
    over = f'.over.{hashlib.sha256(found).hexdigest()[:16]}'
    if not store.create(over, lambda _: b''):
      if (store.age(over) or 0.0) >= self._terms.lease:
        store.remove(over)  # Of one that was killed here.
      return
    try:
      if store.read() == found:
        if beat:
          store.remove(beat)
        store.remove('')
    finally:
      store.remove(over)
