"""Backends of operations that were requested by name."""

from collections.abc import Iterator, Mapping
import contextlib

from sana_jax.errors import did_you_mean, UserError


@contextlib.contextmanager
def preferred(names: Mapping[str, str], key: str) -> Iterator[None]:
  """Uses these backends for all that is traced in the context.

  Args:
    names: backends by operation; '' is the fastest one that can run.
    key: the flag or config key, for messages.

  Raises:
    UserError: a name is unknown, or a backend cannot run here.
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
      f'{key} requests a backend that cannot run here: '
      f'{str(e).splitlines()[0]}; choose another, or none to use the '
      'fastest one that can.',
      key=key,
      value=names,
    ) from e


def check(names: Mapping[str, str], key: str) -> None:
  """Raises UserError for an unknown operation or backend."""
  from sana_jax.kernels import OPS

  for op, name in names.items():
    if op not in OPS:
      raise UserError(
        f'{key} has {op!r}{did_you_mean(op, OPS)}; allowed are '
        f'{", ".join(OPS)}.',
        key=key,
        value=op,
        allowed=OPS,
      )
    if name not in OPS[op].implementations:
      raise UserError(
        f'{key} has {name!r} for {op}'
        f'{did_you_mean(name, OPS[op].implementations)}; allowed are '
        f'{", ".join(OPS[op].implementations)}.',
        key=key,
        value=name,
        allowed=OPS[op].implementations,
      )
