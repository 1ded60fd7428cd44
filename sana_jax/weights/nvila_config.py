"""Settings of NVILA's config.json: how a picture is cut, and put into a text.

Fields and defaults as in NVlabs/VILA's configuration_llava.py. What is not
supported is refused, since a judge that sees another picture judges wrongly.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sana_jax import fields
from sana_jax.errors import UserError
from sana_jax.files import parse_json

_WHERE = 'config.json'
_ENCODER = 'BasicImageEncoder'
_OFF = fields.Field('false', lambda value: value is False)
_ALLOWED = {
  'mm_vision_select_layer': fields.integer(-100, -1),
  'mm_vision_select_feature': fields.choice('cls_patch'),
  'mm_use_im_start_end': _OFF,
  'mm_use_im_patch_token': _OFF,
  'ps3': _OFF,
  'image_aspect_ratio': fields.choice('resize', 'dynamic', 'dynamic_s2'),
  's2': fields.FLAG,
  'dynamic_s2': fields.FLAG,
  's2_resize_output_to_scale_idx': fields.integer(-10, 9),
  'min_tiles': fields.integer(1, 100),
  'max_tiles': fields.integer(1, 100),
  'chat_template': fields.choice('qwen2'),
}
_SIZES = fields.list_of(fields.integer(1, 2**14), 1, 10)


class Settings(NamedTuple):
  """Settings of a judge.

  Attributes:
    select: index of the tower's hidden states, negative from the end.
    aspect: 'resize' to a square first; 'dynamic': tiles of a picture's own
      shape and a small picture; 'dynamic_s2': S2, its last scale of a picture's
      own shape; None: as the tower's preprocessor does.
    sizes: sides of S2's scales in pixels, ascending; () without S2.
    output: index of the scale with the size of the result.
    tiles: fewest and most tiles of a picture.
    around: texts before and after a picture's tokens.
    template: name of a chat template; None for the tokenizer's own.
  """

  select: int = -2
  aspect: str | None = None
  sizes: tuple[int, ...] = ()
  output: int = 0
  tiles: tuple[int, int] = (1, 12)
  around: tuple[str, str] = ('', '\n')
  template: str | None = None

  @property
  def maps(self) -> int:
    """Scales whose features are joined by channel."""
    return len(self.sizes) or 1


def settings_of(config: Mapping[str, Any]) -> Settings:
  """Settings of a config.json; UserError for what is not supported."""
  config = {k: x for k, x in config.items() if x is not None}
  fields.check(_WHERE, config, _ALLOWED)
  aspect = config.get('image_aspect_ratio')
  is_dynamic = bool(config.get('dynamic_s2'))
  if is_dynamic != (aspect == 'dynamic_s2'):
    raise UserError(
      f'{_WHERE}: image_aspect_ratio is {fields.shown(aspect)} and dynamic_s2 '
      f'{is_dynamic}; both or neither must be of dynamic S2.',
      key='image_aspect_ratio',
      value=aspect,
      allowed='dynamic_s2 together with dynamic_s2=true',
    )
  has_s2 = is_dynamic or bool(config.get('s2'))
  if has_s2 and aspect == 'dynamic':
    raise UserError(
      f'{_WHERE}: image_aspect_ratio is dynamic, which S2 does not have.',
      key='image_aspect_ratio',
      value=aspect,
      allowed=('resize', 'dynamic_s2'),
    )
  sizes = _sizes(config) if has_s2 else ()
  output = config.get('s2_resize_output_to_scale_idx', 0)
  if has_s2 and not -len(sizes) <= output < len(sizes):
    raise UserError(
      f'{_WHERE}: s2_resize_output_to_scale_idx is {output}; there are '
      f'{len(sizes)} scales.',
      key='s2_resize_output_to_scale_idx',
      value=output,
    )
  return Settings(
    select=config.get('mm_vision_select_layer', -2),
    aspect=aspect,
    sizes=sizes,
    output=output,
    tiles=(config.get('min_tiles', 1), config.get('max_tiles', 12)),
    around=_around(config),
    template=config.get('chat_template'),
  )


def _sizes(config):
  """Sides of the scales, multiples of the first, which is the tower's."""
  given = config.get('s2_scales')
  if isinstance(given, str):
    parts = given.split(',')
    given = [int(x) if x.strip().isdecimal() else x for x in parts]
  if not _SIZES.test(given) or any(x % min(given) for x in given):
    raise UserError(
      f'{_WHERE}: s2_scales is {fields.shown(config.get("s2_scales"))}; '
      "allowed are sides such as '448,896,1344', multiples of the smallest.",
      key='s2_scales',
      value=config.get('s2_scales'),
      allowed='multiples of the smallest',
    )
  sizes = tuple(sorted(given))
  split = config.get('s2_max_split_size')
  if not config.get('dynamic_s2') and split != sizes[0]:
    raise UserError(
      f'{_WHERE}: s2_max_split_size is {fields.shown(split)}; it must be the '
      f'smallest of s2_scales, {sizes[0]}.',
      key='s2_max_split_size',
      value=split,
      allowed=(sizes[0],),
    )
  return sizes


def _around(config):
  """Texts around a picture, of its encoder's arguments."""
  given = config.get('image_encoder', {'_target_': _ENCODER})
  try:
    encoder = parse_json(given) if isinstance(given, str) else given
  except ValueError:
    encoder = None
  target = encoder.get('_target_') if isinstance(encoder, dict) else None
  if not isinstance(target, str) or target.rpartition('.')[2] != _ENCODER:
    raise UserError(
      f'{_WHERE}: image_encoder is {fields.shown(given)}; only {_ENCODER} is '
      'supported.',
      key='image_encoder',
      value=given,
      allowed=(_ENCODER,),
    )
  texts = (encoder.get('start_tokens'), encoder.get('end_tokens', '\n'))
  if not all(x is None or isinstance(x, str) for x in texts):
    raise UserError(
      f'{_WHERE}: start_tokens and end_tokens of image_encoder must be texts.',
      key='image_encoder',
      value=given,
      allowed=(str, None),
    )
  return tuple(x or '' for x in texts)
