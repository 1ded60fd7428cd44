"""Tuned tile sizes of the kernels, which later stages use."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import copy
import json
import pathlib
import tempfile
from typing import Any

import jax

from sana_jax import files
from sana_jax.kernels import tuning
from sana_jax.tools.bench.chip import operations
from sana_jax.tools.bench.chip.sizes import Sizes
from sana_jax.tools.bench.chip.stages import Row, TILES
from sana_jax.tools.bench.ops import tune as tuner

_MARGIN = 5  # Seconds for timing the compiled tiles.


def tune(
  budget: Callable[[], float],
  sizes: Sizes,
  earlier: Mapping[str, Any],
  op: str,
) -> Iterator[Row]:
  """Yields the fastest tiles of each case, pass and kernel."""
  del earlier
  for case in operations.of_op(op, sizes):
    for name, training in operations.PASSES.items():
      for backend in operations.kernels_of(op):
        if budget() < 0:
          return
        found = tuner.tune(
          case,
          training,
          backend,
          sizes.rounds,
          until=lambda: budget() > _MARGIN,
        )
        if found:
          yield (
            f'{case.where}, {name}, {backend}',
            found._asdict()
            | {
              'entry': [
                op,
                backend,
                tuning.bucket(training, case.shape, case.dtype),
              ]
            },
          )


def table(
  earlier: Mapping[str, Any],
  known: Mapping[str, Any] = {},
) -> dict[str, Any]:
  """Results so far merged into `known`, in the form of kernels/tuned/*.json."""
  found = copy.deepcopy(dict(known))
  for stage, rows in earlier.items():
    for row in rows.values() if stage.startswith(TILES) else ():
      op, backend, bucket = row['entry']
      if row['values']:
        found.setdefault(op, {}).setdefault(backend, {})[bucket] = row['values']
  return found


@contextlib.contextmanager
def in_use(earlier: Mapping[str, Any]) -> Iterator[None]:
  """Context in which traced kernels use the tuned tiles."""
  before, kind = tuning.FOLDER, jax.devices()[0].device_kind
  with tempfile.TemporaryDirectory(prefix='tiles') as folder:
    name = f'{tuning.file_name(kind)}.json'
    files.write_text(
      pathlib.Path(folder, name), json.dumps(table(earlier, tuning.table(kind)))
    )
    tuning.FOLDER = pathlib.Path(folder)
    tuning.table.cache_clear()
    try:
      yield
    finally:
      tuning.FOLDER = before
      tuning.table.cache_clear()
