"""Helpers shared by the tasks: opening data, building modules."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from sana_jax.data import buckets, sources
from sana_jax.data.captions import CaptionRule
from sana_jax.data.records import BadRecord, BadRecords
from sana_jax.data.tags import TagRule
from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.typing import Int


def open_data(
  data: ConfigDict, split: str | None = None, as_stored: bool = False
) -> sources.DescribedSource:
  """The source that `config.data` names, optionally of another split.

  Its images have `size_px` a side, or their stored size with `as_stored`.
  """
  return sources.open_source(
    data.source,
    path=expanded(data.path),
    size=None if as_stored else data.size_px,
    split=split or data.split,
    train_examples=data.examples,
    columns=data.columns.to_dict(),
    rule=caption_rule(data),
    tags=TagRule(data.trigger_word, data.tag_orders, data.kept_tags),
    prompt=data.instance_prompt,
    masks=data.masks,
    min_score=float(data.min_score),
    min_size_px=data.min_size_px,
    max_aspect_ratio=float(data.max_aspect_ratio),
    cache=data.index_path,
    max_bad_fraction=float(data.max_bad_fraction),
  )


def caption_rule(data: ConfigDict) -> CaptionRule:
  """The rule of `config.data` for choosing among captions."""
  return CaptionRule(
    data.caption_rule,
    float(data.caption_threshold),
    float(data.caption_temperature),
  )


def open_inputs(config: ConfigDict) -> sources.DescribedSource:
  """The source of a transformer's images, square or of several ratios."""
  ratios = config.inputs.get('aspect_ratios') and config.data.source != 'shapes'
  return open_data(config.data, as_stored=ratios)


def bucket_sizes(config: ConfigDict, multiple: int) -> list[tuple[int, int]]:
  """(height, width) of each bucket; a single square without aspect_ratios.

  Args:
    multiple: the autoencoder's compression; each side is a multiple of it.
  """
  size = config.data.size_px
  if not config.inputs.aspect_ratios:
    return [(size, size)]
  return list(buckets.table(size, multiple).values())


def bucket_ratios(config: ConfigDict) -> list[float]:
  """Ratio, height / width, of each bucket of `bucket_sizes`."""
  if not config.inputs.aspect_ratios:
    return [1.0]
  return list(buckets.table(config.data.size_px))


def bucket_of_records(
  config: ConfigDict, source: sources.DescribedSource, multiple: int
) -> Int[np.ndarray, 'n']:
  """Bucket index of each record; -1 for an unknown size."""
  if not config.inputs.aspect_ratios:
    return np.zeros(len(source), np.int64)
  return buckets.nearest(
    source.sizes(), buckets.table(config.data.size_px, multiple)
  )


def good_records(
  source: sources.Source, max_bad_fraction: float
) -> Iterator[dict[str, Any]]:
  """Every readable record; the others are counted, as in training."""
  bad = BadRecords(len(source), max_bad_fraction)
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
  """The module of config.model; UserError for an unknown field."""
  fields = model_fields(config) | more
  if unknown := sorted(set(fields) - set(module_class.__dataclass_fields__)):
    raise UserError(
      f'config.model has {unknown}, which {module_class.__name__} has not.',
      key='model',
      value=unknown,
    )
  return module_class(**fields)
