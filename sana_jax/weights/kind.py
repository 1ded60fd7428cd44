"""Description of a class of models in a folder."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import flax.linen as nn

from sana_jax.sharding import rules
from sana_jax.typing import DType, PyTree
from sana_jax.weights import table
from sana_jax.weights.tensors import Stored


@dataclasses.dataclass(frozen=True)
class ModelKind:
  """Conversion of a class of models between files and modules.

  Attributes:
    class_name: `_class_name` in its config.json; `model_type` for a model of
      transformers.
    part: its folder in a model folder.
    cls: the Flax module.
    stem: name of the files with its tensors, without the extension.
    fields: config.json -> keyword arguments of `cls`; raises UserError.
    config: fields of a module -> config.json.
    shapes: module -> shapes of its variables; nothing is allocated.
    layers: module -> number of layers, each with its own tensors.
    rules: module -> table of its tensors and variables.
    sharding: table of the partition of its parameters.
    prepare: tensors of a file -> tensors named as in the rules.
    check: raises UserError for a module with inconsistent fields.
  """

  class_name: str
  part: str
  cls: type[nn.Module]
  stem: str
  fields: Callable[[Mapping[str, Any]], dict[str, Any]]
  config: Callable[[Mapping[str, Any]], dict[str, Any]]
  shapes: Callable[[nn.Module], PyTree]
  layers: Callable[[nn.Module], int]
  rules: Callable[[nn.Module], Sequence[table.Rule]]
  sharding: rules.Table
  prepare: Callable[[dict[str, Stored]], dict[str, Stored]] = lambda x: x
  check: Callable[[nn.Module], None] = lambda module: None

  def module(self, config: Mapping[str, Any], dtype: DType) -> nn.Module:
    """The module that a config.json describes; raises UserError."""
    module = self.cls(**self.fields(config), dtype=dtype)
    self.check(module)
    return module


def under_params(found: Sequence[table.Rule]) -> list[table.Rule]:
  """Rules of a model whose only variables are its parameters."""
  return [rule.under('params') for rule in found]
