"""Captions, scores and size of a record, merged from all that describe it.

The rule is the same in every source. A text file holds the prompt; a JSON
object, a msgpack map or columns hold captions, scores and the size; sidecars
hold more of them. What only one of them has is used. Where two differ, the
first of sidecar, text and JSON is used, and the score of a text that is not
used is dropped. Damaged ones are ignored if another has a caption.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sana_jax.files import parse_json

DEFAULT = 'prompt'  # Name of the original caption.
_CONFLICT = 'its files differ in a caption or score; .txt is used before .json'
_DAMAGED = 'one of its files is damaged, and another has the caption'
_WIDE = (b'\xff\xfe', b'\xfe\xff')  # UTF-16 and UTF-32.


class Facts(NamedTuple):
  """Texts and scores by name, and (height, width), 0 if unknown."""

  captions: Mapping[str, str] = {}
  scores: Mapping[str, float] = {}
  size: tuple[int, int] = (0, 0)


def of_text(data: bytes) -> Facts:
  """Facts of a text file: its content is the prompt; ValueError if damaged."""
  return Facts(usable({DEFAULT: decoded(data)}))


def of_json(content: Any, scored: Iterable[str] = ()) -> Facts:
  """Facts of a JSON object that describes an image.

  `captions` is an object of texts by name, or a list of texts; without it, the
  text of `prompt` or `caption` is named 'prompt'. `scores` is an object of
  numbers, or a list in the order of the captions; any other text with a score,
  also elsewhere (`scored`), is a caption too. `height` and `width` are the size
  of the image.
  """
  if not isinstance(content, dict):
    raise ValueError('the JSON is not an object')
  several = lambda key: (
    named(DEFAULT, content[key])
    if isinstance(content.get(key), dict | list)
    else {}
  )
  scores = numbers(several('scores'))
  texts = {name: content.get(name) for name in (*scores, *scored)}
  texts |= named(DEFAULT, content.get(DEFAULT, content.get('caption')))
  texts |= several('captions')
  size = size_of(content.get('height'), content.get('width'))
  return Facts(usable(texts), scores, size)


def of_files(
  text: bytes | None,
  json: bytes | None,
  more: Facts | None = None,
) -> tuple[Facts, list[str]]:
  """(merged facts, remarks) of a sample's text, JSON and sidecars.

  Raises ValueError with the damage if none has a caption.
  """
  more = more or Facts()
  parts, damage = [more], []
  for data, read in (
    (text, of_text),
    (json, lambda data: of_json(parse_json(data), more.scores)),
  ):
    if data is None:
      continue
    try:
      parts.append(read(data))
    except ValueError as error:
      damage.append(error)
  found, differ = merged(parts)
  if damage and not found.captions:
    raise damage[0]
  return found, [_DAMAGED] * bool(damage) + [_CONFLICT] * bool(differ)


def merged(parts: Iterable[Facts]) -> tuple[Facts, set[str]]:
  """(facts of all parts, names that differ); the first part has priority."""
  texts, scores, size, differ = {}, {}, (0, 0), set()
  for part in parts:
    unused = {
      name
      for name, text in part.captions.items()
      if texts.setdefault(name, text).split() != text.split()
    }
    for name, score in part.scores.items():
      if name not in unused and scores.setdefault(name, score) != score:
        differ.add(name)
    differ |= unused
    size = size if any(size) else part.size
  return Facts(texts, scores, size), differ


def named(name: str, value: Any) -> dict[str, Any]:
  """Values by name: an object's own, `name` and numbers for a list, or one."""
  if isinstance(value, np.ndarray):
    value = value.tolist()
  if isinstance(value, dict):
    return {str(key): entry for key, entry in value.items()}
  if not isinstance(value, list):
    return {name: value}
  prefix = '' if name == DEFAULT else f'{name}.'
  return {f'{prefix}{i}' if i else name: entry for i, entry in enumerate(value)}


def usable(named: Mapping[str, Any]) -> dict[str, str]:
  """Non-empty texts that UTF-8 can encode, without byte order marks."""
  texts = {str(name): _text(value) for name, value in named.items()}
  return {name: text for name, text in texts.items() if text}


def _text(value):
  if isinstance(value, bytes):
    value = decoded(value)
  if not isinstance(value, str):
    return ''
  try:
    value.encode()
  except UnicodeEncodeError:  # Half a surrogate pair.
    return ''
  return value.strip().strip('\ufeff').strip()


def decoded(data: bytes) -> str:
  """Text of UTF-8 with or without a byte order mark; ValueError for others."""
  if data.startswith(_WIDE):
    raise ValueError('it is UTF-16 or UTF-32; save it as UTF-8')
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'it is not UTF-8 at byte {error.start}; save it as UTF-8'
    ) from None


def numbers(named: Mapping[str, Any]) -> dict[str, float]:
  """Finite numbers, possibly given as text (as in the official files)."""
  out = {}
  for name, value in named.items():
    try:
      out[str(name)] = float(value)
    except (TypeError, ValueError, OverflowError):
      continue
  return {name: value for name, value in out.items() if np.isfinite(value)}


def size_of(height: Any, width: Any) -> tuple[int, int]:
  """(height, width) as whole numbers, (0, 0) unless both are usable."""
  found = numbers({'height': height, 'width': width})
  size = int(found.get('height', 0)), int(found.get('width', 0))
  return size if min(size) > 0 and max(size) < 2**31 else (0, 0)


def size_or(
  size: tuple[int, int], read: Callable[[], tuple[tuple[int, int], bool]]
) -> tuple[tuple[int, int], bool]:
  """(size, False) if it is known, else `read()`, of the image's header."""
  return (size, False) if any(size) else read()


def filter_score(scores: Mapping[str, float]) -> float:
  """Score that filters compare: of 'prompt', else the best; NaN if none."""
  return scores.get(DEFAULT, max(scores.values(), default=float('nan')))
