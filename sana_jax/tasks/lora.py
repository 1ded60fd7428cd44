"""Adapters of a run, from config.lora: which layers, and how they are trained.

The run's parameters are the model's and, under `adapters`, the factors. Only
these train; the model is the base of a partial run (training/bases.py).
"""

from collections.abc import Callable
import dataclasses
import functools
import math

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from sana_jax.models import abstract, lora
from sana_jax.models.lora import KEY, Lora
from sana_jax.objectives.base import Partial
from sana_jax.sharding import tables
from sana_jax.sharding.rules import Table
from sana_jax.typing import Params, PyTree
from sana_jax.weights.lora import names, writing


@dataclasses.dataclass(frozen=True)
class Adapted:
  """Parts of an objective for a model with or without adapters.

  Attributes:
    init: rng -> all parameters.
    rules: their sharding table.
    partial: the part that trains.
    split: all parameters -> (the model's, the collection `adapters` or None).
  """

  init: Callable
  rules: Table
  partial: Partial = Partial()
  split: Callable[[Params], tuple[Params, PyTree]] = lambda params: (
    params,
    None,
  )


def adapted(config: ConfigDict, module: nn.Module, rules: Table) -> Adapted:
  """A model as config.lora has it; UserError for unknown layers."""
  init = abstract.transformer_init(module)
  found = of(config, module)
  if found is None:
    return Adapted(init, rules)
  shapes = jax.eval_shape(init, jax.random.key(0))

  def with_factors(rng):
    factors = lora.init(jax.random.fold_in(rng, 1), found, shapes)
    return init(rng) | {KEY: factors}

  def completed(params):
    model, factors = apart(params)
    return params | {KEY: lora.completed(found, factors, model)}

  return Adapted(
    with_factors,
    tables.with_adapters(rules, found.ranks, found.dora),
    Partial(f'{KEY}/.*', base_dtype(config), completed),
    functools.partial(split, found),
  )


def apart(params: Params) -> tuple[Params, Params]:
  """(the model's parameters, the factors), from those of a run."""
  return {k: x for k, x in params.items() if k != KEY}, params[KEY]


def split(found: Lora, params: Params) -> tuple[Params, PyTree]:
  """(the model's parameters, the collection `adapters`), from a run's."""
  model, factors = apart(params)
  return model, lora.collection(found, factors, model)


def variables(config: ConfigDict, module: nn.Module, params: Params) -> PyTree:
  """Variables of the module, from the parameters of a run."""
  found = of(config, module)
  if found is None:
    return {'params': params}
  model, adapters = split(found, params)
  return {'params': model, KEY: adapters}


def write(module: nn.Module, found: Lora, params: Params, folder) -> None:
  """Writes the adapters of a run as a file for diffusers."""
  writing.write(folder, module, found, apart(params)[1])


def base_dtype(config: ConfigDict) -> str:
  """Type of the model's parameters in a run with or without adapters."""
  settings = config.get('lora')
  if not (settings and settings.rank):
    return 'float32'
  return settings.base_dtype or config.dtype


def of(config: ConfigDict, module: nn.Module) -> Lora | None:
  """The adapters of config.lora; None without any.

  Raises UserError for a pattern that matches no layer.
  """
  settings = config.get('lora')
  if not (settings and settings.rank):
    return None
  paths = {layer.name: path for path, layer in names.layers(module).items()}
  targets = names.chosen(
    lora.patterns(settings.targets, 'targets'), paths, 'lora.targets'
  )
  each = lambda name, whole: names.by_pattern(
    lora.numbers(settings[name], name, whole), targets, f'lora.{name}'
  )
  ranks = {
    name: int(rank)
    for name, rank in (
      dict.fromkeys(targets, settings.rank) | each('rank_pattern', True)
    ).items()
  }
  alphas = dict.fromkeys(targets, settings.alpha) if settings.alpha else ranks
  alphas = alphas | each('alpha_pattern', False)
  root = math.sqrt if settings.rslora else float
  return Lora(
    {paths[name]: rank for name, rank in ranks.items()},
    {paths[name]: alphas[name] / root(rank) for name, rank in ranks.items()},
    settings.dora,
  )
