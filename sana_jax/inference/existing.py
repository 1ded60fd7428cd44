"""What earlier runs left in a folder of pictures, checked before it is used.

Others may have written there: a line of the list that is of another type is
none, and nothing is read through links or outside the folder.
"""

from collections.abc import Iterator, Mapping, Sequence
import os
import pathlib
from typing import Any, NamedTuple

from sana_jax.errors import UserError
from sana_jax.files import open_regular, parse_json
from sana_jax.inference import images, shards
from sana_jax.inference.rows import lines

_MOST_BYTES = 2**22  # Of a line: two prompts, escaped.


class Picture(NamedTuple):
  """One file to make, and all that decides its pixels.

  `found` names what is known of it only when it is made, such as its score.
  """

  file: str
  about: Mapping[str, Any]
  found: tuple[str, ...] = ()


def check_places(file: pathlib.Path, folder: pathlib.Path) -> None:
  """Raises UserError unless both can be written without leaving the folder."""
  if os.path.lexists(file) and (file.is_symlink() or not file.is_file()):
    raise UserError(
      f'{file} is not a regular file; remove it or choose another --out.'
    )
  if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
    raise UserError(
      f'{folder} is not a folder; remove it or choose another --out.'
    )


def check_free(path: pathlib.Path) -> None:
  """Raises UserError where a folder stands in the place of a file."""
  if path.is_dir() and not path.is_symlink():
    raise UserError(
      f'{path} is a folder, where a file is to go; move it away '
      'or choose another --out.'
    )


def read_list(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Objects of a JSON-lines file; what else is in it is left out."""
  if not path.is_file():
    return
  with open_regular(path) as file:
    try:
      for _, line, whole in lines(file, _MOST_BYTES):
        if whole and (value := _object(line)) is not None:
          yield value
    except ValueError:  # A line without end.
      return


def describes(line: Mapping[str, Any], picture: Picture) -> bool:
  """Whether a line has what is known of a picture, each of its type."""
  types = picture.about | {k: 0 for k in picture.found if k in line}
  needed = {'prompt', 'number'} & {*picture.about, *picture.found}
  return needed <= set(line) and all(
    _kind(line[k]) == _kind(v) for k, v in types.items() if k in line
  )


class Kept:
  """Pictures in a folder and its shards.

  Attributes:
    loose: names in the folder where single pictures are.
    inside: the shard of each picture that is in one.
    damaged: names of what cannot be used.
  """

  def __init__(
    self, folder: pathlib.Path, parts: pathlib.Path, names: Sequence[str]
  ):
    self._parts = parts
    self.loose = set(os.listdir(parts)) if parts.is_dir() else set()
    self.inside: dict[str, str] = {}
    self.damaged: list[str] = []
    for shard in names:
      check_free(folder / shard)
      if os.path.lexists(folder / shard):
        try:
          self.inside |= dict.fromkeys(shards.contents(folder / shard), shard)
        except ValueError:
          self.damaged.append(shard)

  def holds(self, file: str) -> bool:
    """Whether a picture is there and looks whole."""
    if file in self.inside:
      return True
    if file not in self.loose:
      return False
    if images.is_whole(self._parts / file):
      return True
    self.damaged.append(file)
    return False

  def drop(self, file: str) -> None:
    """Forgets a picture that turned out to be damaged."""
    self.inside.pop(file, None)
    self.damaged.append(file)


def _object(line):
  try:
    value = parse_json(line)
  except ValueError:
    return None
  return value if isinstance(value, dict) else None


def _kind(value):
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return float if number else list if isinstance(value, tuple) else type(value)
