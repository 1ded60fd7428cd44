"""Model folders written tensor by tensor, with a bar of progress."""

import dataclasses
import pathlib
import time

from sana_jax import locks
from sana_jax.launch import output


def write(source, target: str, fmt: str, doing: str) -> str:
  """Writes a Source of weights/exchange.py to --to; returns a line about it.

  Args:
    doing: what else would be doing to the same target, such as 'converting'.
  """
  from sana_jax.weights import exchange

  path = pathlib.Path(output.check_new(target, '--to'))
  parts = source.parts
  size = sum(t.nbytes for p in parts.values() for t in p.tensors.values())
  started = time.monotonic()
  with _bar(size, doing) as bar, locks.hold(locks.beside(path), doing, '--to'):
    output.check_new(target, '--to')  # It may exist by now.
    watched = exchange.Source(_watched(parts, bar), source.folder)
    exchange.write(watched, path, fmt)
  seconds = time.monotonic() - started
  return (
    f'{target}: {", ".join(parts)}, {size / 1e6:,.0f} MB in '
    f'{seconds:.1f} s ({size / 1e6 / max(seconds, 1e-3):,.0f} MB/s)'
  )


def _bar(size, doing):
  from tqdm import tqdm

  return tqdm(
    total=size,
    unit='B',
    unit_scale=True,
    desc=doing,
    disable=None,
    smoothing=0.1,
  )


def _watched(parts, bar):
  """Wraps the parts so that reading their tensors advances the bar."""

  def watch(tensor):
    def fetch(start, stop):
      rows = tensor.fetch(start, stop)
      bar.update(rows.nbytes)
      return rows

    return dataclasses.replace(tensor, fetch=fetch)

  return {
    name: part._replace(
      tensors={key: watch(t) for key, t in part.tensors.items()}
    )
    for name, part in parts.items()
  }
