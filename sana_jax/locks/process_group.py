"""The processes that share a lock; process 0 holds it."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

import numpy as np

from sana_jax.files import parse_json

_BYTES = 2**14  # Size of a broadcast message.


@dataclasses.dataclass(frozen=True)
class Processes:
  """The processes of jax.distributed.

  Attributes:
    handle_sigterm: whether JAX handles the signal, to stop all of them.
  """

  index: int = 0
  count: int = 1
  handle_sigterm: bool = False

  def broadcast(self, status: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the status of process 0 in all processes."""
    if self.count == 1:
      return dict(status)
    from jax.experimental import multihost_utils

    data = json.dumps(status).encode()
    block = np.zeros(_BYTES, np.uint8)
    block[: len(data)] = np.frombuffer(data, np.uint8)
    block = np.asarray(multihost_utils.broadcast_one_to_all(block))
    return parse_json(block.tobytes().rstrip(b'\0'))

  def barrier(self, name: str) -> None:
    """Blocks until every process has reached the barrier."""
    if self.count > 1:
      from jax.experimental import multihost_utils

      multihost_utils.sync_global_devices(name)


SINGLE = Processes()


def current() -> Processes:
  """All processes of jax.distributed; initializes its backends if necessary."""
  import jax

  count = jax.process_count()
  return Processes(
    jax.process_index(),
    count,
    count > 1
    and bool(getattr(jax.config, 'jax_enable_preemption_service', True)),
  )
