"""Adapters of the demo: a weight of each in a request, by its name."""

from collections.abc import Mapping
from typing import Any

from sana_jax.errors import did_you_mean, UserError
from sana_jax.inference import adapters
from sana_jax.inference.request_values import is_number, shown
from sana_jax.printable import printable

MOST_SHOWN = 2.0  # Of a slider, unless the given weight is larger.
_MOST = adapters.MOST_WEIGHT
_ALLOWED = f'a number from {-_MOST:g} to {_MOST:g}'
_CHARACTERS = 60  # Of a name in a message.


def own(pipe) -> dict[str, float]:
  """Weights with which the demo was started, by name.

  An adapter with a weight for each module keeps it and is not listed.
  """
  return {
    name: float(adapter.weight)
    for name, adapter in pipe.loras.items()
    if is_number(adapter.weight)
  }


def problems(pipe, given: Any) -> list[UserError]:
  """Errors of the weights in a request."""
  if given is None:
    return []
  if not isinstance(given, Mapping):
    allowed = 'an object of names and weights'
    return [
      UserError(
        f'lora is {shown(given)}; give {allowed}.',
        key='lora',
        value=given,
        allowed=allowed,
      )
    ]
  known = own(pipe)
  return [
    _unknown(name, list(known))
    if name not in known
    else UserError(
      f'The weight of the adapter {name!r} is {shown(weight)}; give '
      f'{_ALLOWED}.',
      key='lora',
      value=weight,
      allowed=_ALLOWED,
    )
    for name, weight in given.items()
    if name not in known or not _is_weight(weight)
  ]


def completed(
  pipe, given: Mapping[str, float | int] | None
) -> dict[str, float] | None:
  """A weight of each adapter, by default its own; None without adapters."""
  known = own(pipe)
  return known | {k: float(v) for k, v in (given or {}).items()} or None


def weighted(pipe, weights: Mapping[str, float] | None):
  """The pipeline with these weights, by one program for all of them."""
  return adapters.reweighed(pipe, weights) if weights else pipe


def about(weights: Mapping[str, float] | None) -> dict[str, str]:
  """Metadata of a picture, in the form of `sana-jax sample --lora`."""
  if not weights:
    return {}
  return {'lora': ' '.join(f'{name}:{w:g}' for name, w in weights.items())}


def _unknown(name, known):
  name = str(name)[:_CHARACTERS]
  there = ', '.join(known) or 'none; start it with --lora'
  return UserError(
    f'The demo has no adapter {printable(repr(name), _CHARACTERS + 4)}'
    f'{did_you_mean(name, known)}; it has {there}.',
    key='lora',
    value=name,
    allowed=tuple(known),
  )


def _is_weight(value):
  return is_number(value) and abs(value) <= _MOST
