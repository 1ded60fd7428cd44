"""The keys of the data."""

from sana_jax.data import array_cache, captions, masks, records, sources
from sana_jax.fields import Field
from sana_jax.keys import (
  CACHE,
  Key,
  Location,
  most,
  NOT_NEGATIVE,
  NOTHING,
  one_of,
  POSITIVE,
  PROGRAM,
  RESULT,
  SHARE,
  size,
)


def _read(values, begun):
  """Whether a run reads data.path, which a cache or prompts replace.

  Each host renders 'shapes' for itself.
  """
  del begun
  cached = values.get('inputs.latents') == 'cached'
  return values['data.source'] != 'shapes' and not (
    (cached and values.get('inputs.cache')) or values.get('nft.prompts')
  )


_CONTENT = RESULT | CACHE  # The examples themselves.
_RATIO = Field('1 or more, or 0 for any', lambda v: v == 0 or v >= 1)

_COLUMNS = {
  f'columns.{name}': Key(default, comment, changes=_CONTENT)
  for name, default, comment in (
    ('image', 'image', "Column of 'parquet' with the image."),
    ('captions', 'caption', "Column of captions; several are 'a,b'."),
    ('scores', '', 'Columns of CLIP scores, in the order of the captions.'),
    ('height', 'height', 'Column that avoids reading the headers of images.'),
    ('width', 'width', 'Column that avoids reading the headers of images.'),
  )
}

_KEYS = {
  'source': Key(
    'shapes',
    'Kind of the source: see docs/data.md.',
    one_of(sources.KINDS),
    _CONTENT,
  ),
  'path': Key(
    '~/.cache/sana_jax/data',
    "Location of the data; for 'shapes', folder to create them in.",
    changes=NOTHING,
    location=Location(buckets=True, used=_read),
  ),
  'split': Key(
    'train', "Split of 'shapes' or 'tfds'; others have none.", changes=_CONTENT
  ),
  'size_px': Key(
    64,
    'Side of the images; with several ratios, of the square ones.',
    size(2**14),
    _CONTENT | PROGRAM,
  ),
  'threads': Key(
    4,
    'Prefetch threads, a batch each; 0 for small data in memory.',
    (NOT_NEGATIVE, most(1000)),
    NOTHING,
  ),
  'examples': Key(
    24_000, "Examples to render, for 'shapes'.", POSITIVE, _CONTENT
  ),
  **_COLUMNS,
  'caption_rule': Key(
    'official',
    'Rule for choosing among the captions of an image: see docs/data.md.',
    one_of(captions.RULES),
    RESULT,
  ),
  'caption_threshold': Key(
    25.0, "Least CLIP score, for 'official'.", NOT_NEGATIVE, RESULT
  ),
  'caption_temperature': Key(
    0.1, 'Temperature of the choice by CLIP score.', POSITIVE, RESULT
  ),
  'instance_prompt': Key(
    '', "Caption of a folder's images that have none.", changes=_CONTENT
  ),
  'trigger_word': Key(
    '', 'Put before captions that do not contain it.', changes=_CONTENT
  ),
  'tag_orders': Key(
    0,
    'Random orders of the comma-separated tags of a caption, of which each '
    "step draws one, with the rule 'uniform'; 0 keeps the order.",
    (NOT_NEGATIVE, most(1000)),
    _CONTENT,
  ),
  'kept_tags': Key(
    1, 'First tags that keep their place.', NOT_NEGATIVE, _CONTENT
  ),
  'masks': Key(
    '',
    "Weights of the loss: 'files' like cat.mask.png beside cat.jpg, or 'alpha' "
    'channels; see docs/your_pictures.md.',
    one_of(masks.KINDS),
    _CONTENT,
  ),
  'min_score': Key(
    0.0,
    'Least CLIP score; 22 in the published runs, 0 for any.',
    NOT_NEGATIVE,
    _CONTENT,
  ),
  'min_size_px': Key(
    0, 'Least shorter side as stored; 0 for any.', NOT_NEGATIVE, _CONTENT
  ),
  'max_aspect_ratio': Key(
    0.0,
    'Largest ratio of the longer side to the shorter; 0 for any.',
    _RATIO,
    _CONTENT,
  ),
  'max_bad_fraction': Key(
    records.MAX_BAD_FRACTION,
    'Largest fraction of records that cannot be read; more stop the run.',
    SHARE,
    NOTHING,
  ),
  'index_path': Key(
    array_cache.CACHE,
    "Folder for the index of files; '' for none.",
    changes=NOTHING,
  ),
}
KEYS = {f'data.{name}': key for name, key in _KEYS.items()}
