"""Backends of operations that were asked for by name: checked, and in use."""

from collections.abc import Iterator, Mapping
import contextlib

from sana_jax.errors import UserError


@contextlib.contextmanager
def preferred(names: Mapping[str, str], key: str) -> Iterator[None]:
  """All that is traced meanwhile uses them; '' is the fastest that can.

  Raises UserError, which names `key`, for names that there are not, and where
  one of them cannot run.
  """
  names = {op: name for op, name in names.items() if name}
  if not names:
    yield
    return
  from sana_jax import kernels

  check(names, key)
  try:
    with kernels.prefer_in_all_threads(**names):
      yield
  except kernels.UnsupportedError as e:
    raise UserError(
      f'{key} asks for a backend that cannot run here: '
      f'{str(e).splitlines()[0]}; ask for another, or for none to have the '
      'fastest that can.'
    ) from e


def check(names: Mapping[str, str], key: str) -> None:
  """Raises UserError for an op or a backend that there is not."""
  from sana_jax.kernels import OPS

  for op, name in names.items():
    if op not in OPS:
      raise UserError(f'{key} has {op!r}; allowed are {", ".join(OPS)}.')
    if name not in OPS[op].implementations:
      raise UserError(
        f'{key} has {name!r} for {op}; allowed are '
        f'{", ".join(OPS[op].implementations)}.'
      )
