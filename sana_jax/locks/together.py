"""Processes of one run that take a lock together: process 0 holds it."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

import numpy as np

from sana_jax.files import parse_json

_BYTES = 2**14  # Of what is broadcast.


@dataclasses.dataclass(frozen=True)
class Processes:
  """The processes of jax.distributed.

  Attributes:
    handle_sigterm: JAX itself listens for the signal, to stop all of them.
  """

  index: int = 0
  count: int = 1
  handle_sigterm: bool = False

  def broadcast(self, status: Mapping[str, Any]) -> dict[str, Any]:
    """The status of process 0, for all of them."""
    if self.count == 1:
      return dict(status)
    from jax.experimental import multihost_utils

    data = json.dumps(status).encode()
    block = np.zeros(_BYTES, np.uint8)
    block[: len(data)] = np.frombuffer(data, np.uint8)
    block = np.asarray(multihost_utils.broadcast_one_to_all(block))
    return parse_json(block.tobytes().rstrip(b'\0'))

  def meet(self, where: str) -> None:
    """Blocks until every process has reached it."""
    if self.count > 1:
      from jax.experimental import multihost_utils

      multihost_utils.sync_global_devices(where)


ALONE = Processes()


def processes() -> Processes:
  """All of jax.distributed, whose backends are started if need be."""
  import jax

  count = jax.process_count()
  return Processes(
    jax.process_index(),
    count,
    count > 1
    and bool(getattr(jax.config, 'jax_enable_preemption_service', True)),
  )
