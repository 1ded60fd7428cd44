"""Chooses, for one op, the first backend that can run the call.

An op without `implementation` tries the platform's backends, best first, and
ends at plain XLA. One that is asked for by name runs or raises: it never falls
back. What was chosen, and why not a better one, is logged once.

The choice is made while JAX traces. `platform` tells it that the program is
for other devices than those that are here; `prefer` overrides it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import contextvars
import dataclasses
import functools
import importlib
import types
from typing import NamedTuple

from absl import logging
import jax

_PLATFORM = contextvars.ContextVar('platform', default=None)
_RECORD = contextvars.ContextVar('record', default=None)
_preferred: Mapping[str, str] = types.MappingProxyType({})


class UnsupportedError(NotImplementedError):
  """This backend cannot run this call, for the reason that is given."""


class Call(NamedTuple):
  """What an op was called with."""

  op: str
  shapes: tuple[tuple[int, ...], ...]
  dtype: str  # Of the first argument.


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
  """An op and its backends; 'xla' is always there, and the last to be tried.

  Attributes:
    xla: the definition, which JAX differentiates both ways.
    kernels: backend -> 'module:function', imported on first use. Takes what
      `xla` takes, and raises UnsupportedError before it traces anything.
    order: platform ('tpu', 'gpu', 'cpu') -> backends to try, best first. One
      stands here when a benchmark has shown that it beats XLA.
  """

  name: str
  xla: Callable[..., jax.Array]
  kernels: Mapping[str, str]
  order: Mapping[str, Sequence[str]]

  def __call__(self, *args, implementation: str | None = None, **kwargs):
    """Runs the op; `implementation` is a backend's name."""
    if (calls := _RECORD.get()) is not None:
      calls.append(Call(
        self.name, tuple(x.shape for x in args), args[0].dtype.name))
    implementation = implementation or _preferred.get(self.name)
    if implementation is not None:
      return self.backend(implementation)(*args, **kwargs)
    reasons = []
    for backend in self.order.get(target(), ()):
      try:
        out = self.backend(backend)(*args, **kwargs)
      except UnsupportedError as e:
        reasons.append(f'{backend}: {e}')
      else:
        _tell(self.name, backend, *reasons)
        return out
    if reasons:
      _tell(self.name, 'xla', *reasons)
    return self.xla(*args, **kwargs)

  def backend(self, name: str) -> Callable[..., jax.Array]:
    """The function behind a name; ValueError if there is none."""
    if name == 'xla':
      return self.xla
    if name not in self.kernels:
      raise ValueError(
        f'{self.name} has no implementation {name!r}; it has '
        f'{", ".join(self.implementations)}.')
    module, function = self.kernels[name].split(':')
    return getattr(importlib.import_module(module), function)

  @property
  def is_plain(self) -> bool:
    """Whether a call that names no backend goes to XLA at once."""
    first = _preferred.get(self.name) or next(
      iter(self.order.get(target(), ())), 'xla')
    return first == 'xla'

  @property
  def implementations(self) -> list[str]:
    """Names of all backends."""
    return [*self.kernels, 'xla']


@functools.cache
def _tell(op, backend, *reasons):
  """Logs each sentence once."""
  why = f' ({"; ".join(reasons)})' if reasons else ''
  logging.info('%s runs on %s%s.', op, backend, why)


def target() -> str:
  """The platform that programs are traced for: 'tpu', 'gpu' or 'cpu'."""
  return _PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def platform(name: str | None) -> Iterator[None]:
  """Traces inside are for this platform, whatever is here; None is what is."""
  token = _PLATFORM.set(name)
  try:
    yield
  finally:
    _PLATFORM.reset(token)


@contextlib.contextmanager
def prefer(**implementations: str) -> Iterator[None]:
  """Ops traced meanwhile use these backends: prefer(glumb_conv='xla').

  In all threads, as they share what is jitted. Functions that were jitted
  before keep what they were traced with.
  """
  global _preferred
  before, _preferred = _preferred, {**_preferred, **implementations}
  try:
    yield
  finally:
    _preferred = before


@contextlib.contextmanager
def recorded() -> Iterator[list[Call]]:
  """The calls of ops that are traced inside, one for the body of a scan."""
  token = _RECORD.set([])
  try:
    yield _RECORD.get()
  finally:
    _RECORD.reset(token)
