"""What the tasks share: opening data, fields of models, pixels as numbers."""

from collections.abc import Iterator
import os
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from sana_jax.data import sources
from sana_jax.data.captions import CaptionRule
from sana_jax.data.records import BadRecord, BadRecords
from sana_jax.errors import UserError


def open_data(
  data: ConfigDict, split: str | None = None
) -> sources.DescribedSource:
  """The source that `config.data` names; another split on request."""
  rule = CaptionRule(data.caption_rule, float(data.caption_threshold),
                     float(data.caption_temperature))
  return sources.open_source(
    data.source, path=os.path.expanduser(data.path), size=data.size_px,
    split=split or data.split, train_examples=data.examples,
    columns=data.columns.to_dict(), rule=rule,
    min_score=float(data.min_score), min_size_px=data.min_size_px,
    max_aspect_ratio=float(data.max_aspect_ratio), cache=data.index_path)


def good_records(source: sources.Source) -> Iterator[dict[str, Any]]:
  """Every record that can be read; the others are counted, as in training."""
  bad = BadRecords(len(source))
  for index in range(len(source)):
    try:
      record = source[index]
    except BadRecord as e:
      bad.add(e)
      continue
    bad.saw_good()
    yield record


def model_fields(config: ConfigDict) -> dict:
  """Keyword arguments of the module: config.model and the dtype."""
  fields = config.model.to_dict()
  return {**fields, 'dtype': jnp.dtype(config.dtype)}


def build(module_class, config: ConfigDict, **more):
  """The module of config.model; UserError where a field does not exist."""
  fields = model_fields(config) | more
  if unknown := sorted(set(fields) - set(module_class.__dataclass_fields__)):
    raise UserError(
      f'config.model has {unknown}, which {module_class.__name__} has not.')
  return module_class(**fields)


def to_signed(images):
  """uint8 pixels to [-1, 1] in float32."""
  return images.astype(jnp.float32) / 127.5 - 1
