"""Adapters of a pipeline: loaded by name, weighted, and merged.

`load`, `weigh` and `fuse` are the methods `load_lora`, `set_adapters` and
`fuse_lora` of Pipeline. They return another pipeline, as `replace` does; that
of before keeps its weights, and both share the base's. `reweighed` is for
servers: its pipelines run by one program, whatever the weights.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
import re
from typing import Any

import jax

from sana_jax.errors import did_you_mean, UserError
from sana_jax.models import lora
from sana_jax.weights.folder import Model
from sana_jax.weights.lora import combining, reading, spelling
from sana_jax.weights.lora.combining import Weight, Weighted

MOST_WEIGHT = 100.0  # Largest absolute value.


def load(
  pipe,
  path: os.PathLike | str,
  weight: Weight = 1.0,
  name: str | None = None,
):
  """A copy of the pipeline that uses an adapter file, beside others.

  Args:
    path: a file, in any spelling of weights/lora/spelling.py, or its folder.
    weight: factor of what the adapter adds; one, or one for each module, as in
      {'transformer_blocks.0': 0.5}.
    name: for `set_adapters`; by default that of the file.

  Raises:
    UserError: a file that does not fit, or cannot be used entirely.
  """
  module = pipe.transformer.module
  name = name or _new_name(pipe, path)
  if not isinstance(name, str) or name in pipe.loras:
    raise UserError(
      f'name={name!r}: the pipeline has an adapter of that name; choose '
      'another, or change its weight by set_adapters.',
      key='name',
      value=name,
    )
  check_weight(weight, module)
  added = Weighted(reading.read(path, module), weight)
  return _with(pipe, {**pipe.loras, name: added})


def weigh(
  pipe,
  names: str | Sequence[str],
  weights: Weight | Sequence[Weight] | None = None,
):
  """A copy that uses these adapters alone, with these weights."""
  chosen = [names] if isinstance(names, str) else list(names)
  if weights is None:
    weights = 1.0
  if isinstance(weights, Mapping | float | int):
    weights = [weights] * len(chosen)
  if len(weights) != len(chosen):
    raise UserError(
      f'{len(weights)} weights for {len(chosen)} adapters; give one for each.',
      key='weights',
      value=list(weights),
    )
  for name, weight in zip(chosen, weights):
    check_name(pipe, name)
    check_weight(weight, pipe.transformer.module)
  off = {
    name: adapter._replace(weight=0.0) for name, adapter in pipe.loras.items()
  }
  on = {
    name: pipe.loras[name]._replace(weight=weight)
    for name, weight in zip(chosen, weights)
  }
  return _with(pipe, {**off, **on})


def reweighed(pipe, weights: Mapping[str, Weight]):
  """A copy with a weight of each adapter, of which 0 turns one off.

  Nothing is compiled again for other weights: an adapter that is off has zeros.
  """
  for name, weight in weights.items():
    check_name(pipe, name)
    check_weight(weight, pipe.transformer.module)
  loras = {
    name: adapter._replace(weight=weights.get(name, adapter.weight))
    for name, adapter in pipe.loras.items()
  }
  return _with(pipe, loras, keep_off=True)


def fuse(pipe):
  """A copy with its adapters merged into the weights."""
  variables = pipe.transformer.variables
  if 'adapters' in variables:
    merged = jax.jit(lora.merged)(variables['params'], variables['adapters'])
    variables = {'params': merged}
  return pipe.replace(
    transformer=Model(pipe.transformer.module, variables), loras={}
  )


def check_name(pipe, name: Any) -> None:
  """Raises UserError unless the pipeline has an adapter of that name."""
  if name not in pipe.loras:
    raise UserError(
      f'The pipeline has no adapter {name!r}'
      f'{did_you_mean(str(name), list(pipe.loras))}; it has '
      f'{", ".join(map(repr, pipe.loras)) or "none"}.',
      key='names',
      value=name,
      allowed=tuple(pipe.loras),
    )


def check_weight(weight: Any, module) -> None:
  """Raises UserError unless a weight is a number, or numbers by module."""
  known = spelling.names_of(module).dotted
  values = weight if isinstance(weight, Mapping) else {'': weight}
  for name, value in values.items():
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) <= MOST_WEIGHT:
      raise UserError(
        f'weight={value!r} must be a number from {-MOST_WEIGHT:g} to '
        f'{MOST_WEIGHT:g}.',
        key='weight',
        value=value,
        allowed=(-MOST_WEIGHT, MOST_WEIGHT),
      )
    if name and not any(f'{k}.'.startswith(f'{name}.') for k in known):
      raise UserError(
        f'weight: the model has no module {name!r}'
        f'{did_you_mean(str(name), list(known))}.',
        key='weight',
        value=name,
        allowed=sorted(known),
      )


def _with(pipe, loras, keep_off=False):
  module, variables = pipe.transformer
  params = variables['params']
  adapters = combining.collection(
    module, params, list(loras.values()), keep_off
  )
  like = params['patch_embed']['kernel']
  variables = {'params': params}
  if adapters:
    variables['adapters'] = combining.placed(adapters, like)
  return pipe.replace(transformer=Model(module, variables), loras=loras)


def _new_name(pipe, path):
  """A name from the file's, with a number if it is taken."""
  path = pathlib.Path(path)
  stem = re.sub(r'\W+', '_', path.stem) or 'lora'
  used = [stem, *(f'{stem}_{n}' for n in range(2, len(pipe.loras) + 3))]
  return next(name for name in used if name not in pipe.loras)
