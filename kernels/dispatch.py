"""Backend selection: the first backend of an op that supports the call.

A call without `implementation` tries the platform's backends, best first, and
falls back to plain XLA. A backend requested by name runs or raises: it never
falls back. The choice, and why better ones were rejected, is logged once.

The choice is made while JAX traces. `platform` sets the program's platform if
it is compiled for devices that are absent; `prefer` overrides the order. Both
are part of the cache key of `jit`, so a function is traced once per choice.
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
    platform: the program's; None for the platform of the local devices.
    preferred: sorted (op, backend).
    record: list that collects calls; compared by identity.
  """

  platform: str | None = None
  preferred: tuple[tuple[str, str], ...] = ()
  record: '_Record | None' = None


class _Record(list):
  """List of calls, hashed by identity: a new record is a new key of `jit`."""

  __hash__ = object.__hash__
  __eq__ = object.__eq__


_choice = jax.make_user_context(_Choice())


class UnsupportedError(NotImplementedError):
  """Raised by a backend that does not support a call, with the reason."""


class Call(NamedTuple):
  """Arguments of a call of an op."""

  op: str
  shapes: tuple[tuple[int, ...], ...]
  dtype: str  # The first argument's.


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
  """An op and its backends; 'xla' always exists and is tried last.

  Attributes:
    xla: the definition, which JAX differentiates both ways.
    kernels: backend -> 'module:function', imported on first use. It takes the
      arguments of `xla`, and raises UnsupportedError before it traces anything.
    order: platform ('tpu', 'gpu', 'cpu') -> backends to try, best first. A
      backend is listed once a benchmark has shown that it beats XLA.
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
        _log(self.name, backend, *reasons)
        return out
    if reasons:
      _log(self.name, 'xla', *reasons)
    return self.xla(*args, **kwargs)

  def backend(self, name: str) -> Callable[..., jax.Array]:
    """Returns the function of a backend; raises ValueError if there is none."""
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

    Raises ValueError if the name is taken.
    """
    if name in self.implementations and self.kernels.get(name) != function:
      raise ValueError(
        f'{self.name} has an implementation {name!r}; choose another name.'
      )
    self.kernels[name] = function

  @property
  def is_plain(self) -> bool:
    """Whether a call without a named backend goes directly to XLA."""
    first = preferred().get(self.name) or next(
      iter(self.order.get(target(), ())), 'xla'
    )
    return first == 'xla'

  @property
  def implementations(self) -> list[str]:
    """Names of all backends."""
    return [*self.kernels, 'xla']


@functools.cache
def _log(op, backend, *reasons):
  """Logs each choice once."""
  why = f' ({"; ".join(reasons)})' if reasons else ''
  logging.info('%s runs on %s%s.', op, backend, why)


def target() -> str:
  """Platform that programs are traced for: 'tpu', 'gpu' or 'cpu'."""
  return _choice.value.platform or jax.default_backend()


def preferred() -> dict[str, str]:
  """Preferred backends by op."""
  return dict(_choice.value.preferred)


@contextlib.contextmanager
def platform(name: str | None) -> Iterator[None]:
  """Sets the platform of traces inside; None for the local devices'."""
  with _choice(_choice.value._replace(platform=name)):
    yield


@contextlib.contextmanager
def prefer(**implementations: str) -> Iterator[None]:
  """Makes ops of this thread use these backends: prefer(glumb_conv='xla').

  Jitted functions are retraced for them. Programs that were compiled ahead of
  time are unchanged.
  """
  with _choice(_with(_choice.value, implementations)):
    yield


@contextlib.contextmanager
def prefer_in_all_threads(**implementations: str) -> Iterator[None]:
  """Applies `prefer` to this thread and all without their own choice."""
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
  """Collects the calls of ops traced inside; the body of a scan counts once."""
  record = _Record()
  with _choice(_choice.value._replace(record=record)):
    yield record
