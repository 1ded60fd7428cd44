"""Chooses, for one op, the first backend that can run the call.

An op without `implementation` tries the platform's backends, best first, and
ends at plain XLA. One that is asked for by name runs or raises: it never falls
back. What was chosen, and why not a better one, is logged once.

The choice is made while JAX traces. `platform` is the one of the program where
that is for other devices than those that are here; `prefer` overrides the
order. Both are part of the key under which `jit` keeps what it traced, so that
a function is traced once for each choice.
"""

from collections.abc import (
  Callable,
  Iterator,
  Mapping,
  MutableMapping,
  Sequence,
)
import contextlib
import dataclasses
import functools
import importlib
from typing import NamedTuple

from absl import logging
import jax


class _Choice(NamedTuple):
  """The settings that decide a backend, besides the call.

  Attributes:
    platform: of the program; None for that of the devices that are here.
    preferred: sorted (op, backend).
    record: list for the calls; compared by identity.
  """

  platform: str | None = None
  preferred: tuple[tuple[str, str], ...] = ()
  record: '_Record | None' = None


class _Record(list):
  """Calls; two records are different keys of `jit`."""

  __hash__ = object.__hash__
  __eq__ = object.__eq__


_choice = jax.make_user_context(_Choice())


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
  kernels: MutableMapping[str, str]
  order: Mapping[str, Sequence[str]]

  def __call__(self, *args, implementation: str | None = None, **kwargs):
    """Runs the op; `implementation` is a backend's name."""
    if (calls := _choice.value.record) is not None:
      calls.append(
        Call(self.name, tuple(x.shape for x in args), args[0].dtype.name)
      )
    implementation = implementation or preferred().get(self.name)
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
        f'{", ".join(self.implementations)}.'
      )
    module, function = self.kernels[name].split(':')
    return getattr(importlib.import_module(module), function)

  def register(self, name: str, function: str) -> None:
    """Adds a backend, 'module:function', which runs where it is named.

    Raises ValueError where the name is taken.
    """
    if name in self.implementations and self.kernels.get(name) != function:
      raise ValueError(
        f'{self.name} has an implementation {name!r}; choose another name.'
      )
    self.kernels[name] = function

  @property
  def is_plain(self) -> bool:
    """Whether a call that names no backend goes to XLA at once."""
    first = preferred().get(self.name) or next(
      iter(self.order.get(target(), ())), 'xla'
    )
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
  return _choice.value.platform or jax.default_backend()


def preferred() -> dict[str, str]:
  """Backends by op, where one is preferred."""
  return dict(_choice.value.preferred)


@contextlib.contextmanager
def platform(name: str | None) -> Iterator[None]:
  """Traces inside are for this platform; None for that of the devices here."""
  with _choice(_choice.value._replace(platform=name)):
    yield


@contextlib.contextmanager
def prefer(**implementations: str) -> Iterator[None]:
  """Ops use these backends in this thread: prefer(glumb_conv='xla').

  What is jitted is traced again for them. Programs that were compiled ahead of
  time stay as they are.
  """
  with _choice(_with(_choice.value, implementations)):
    yield


@contextlib.contextmanager
def prefer_in_all_threads(**implementations: str) -> Iterator[None]:
  """`prefer` for this thread and for all without a choice of their own."""
  before = _choice.get_global()
  _choice.set_global(_with(before, implementations))
  try:
    with prefer(**implementations):
      yield
  finally:
    _choice.set_global(before)


def _with(choice, implementations):
  both = dict(choice.preferred) | implementations
  return choice._replace(preferred=tuple(sorted(both.items())))


@contextlib.contextmanager
def recorded() -> Iterator[list[Call]]:
  """The calls of ops that are traced inside, one for the body of a scan."""
  record = _Record()
  with _choice(_choice.value._replace(record=record)):
    yield record
