"""Pictures of the demo, kept in memory for the browsers that requested them.

Nothing is written to disk, so a killed server leaves nothing behind.
"""

from collections.abc import Sequence
import secrets
import time
from typing import NamedTuple

from sana_jax.inference.demo import File

SECONDS = 3600  # Age at which pictures are dropped.
MOST_BYTES = 2**29  # Older pictures are dropped beyond it.


class _Set(NamedTuple):
  """Pictures of one request, by name."""

  owner: str
  born: float
  files: dict[str, bytes]
  size: int


class Album:
  """PNG files by an unguessable path."""

  def __init__(self, most_bytes: int = MOST_BYTES, seconds: float = SECONDS):
    self._most_bytes, self._seconds = most_bytes, seconds
    self._sets = {}  # By token, the oldest first.

  def add(self, owner: str, files: Sequence[File]) -> list[str]:
    """Stores the pictures; returns their paths, TOKEN/NAME."""
    token = secrets.token_urlsafe(32)
    named = {file.name: file.content for file in files}
    self._sets[token] = _Set(
      owner, time.monotonic(), named, sum(map(len, named.values()))
    )
    size = sum(kept.size for kept in self._sets.values())
    # The newest stay, however large they are.
    for old in list(self._sets)[:-1]:
      if size <= self._most_bytes:
        break
      size -= self._sets.pop(old).size
    return [f'{token}/{name}' for name in named]

  def get(self, path: str) -> bytes | None:
    """Content of a picture; None if it was dropped."""
    oldest = time.monotonic() - self._seconds
    self._keep(lambda kept: kept.born > oldest)
    token, _, name = path.partition('/')
    found = self._sets.get(token)
    return found and found.files.get(name)

  def drop(self, owner: str) -> None:
    """Drops all pictures of the owner."""
    self._keep(lambda kept: kept.owner != owner)

  def _keep(self, wanted):
    self._sets = {t: kept for t, kept in self._sets.items() if wanted(kept)}
