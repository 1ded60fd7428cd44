"""Pictures of earlier runs in a folder, checked before they are used.

The folder is untrusted: lines of the list with other types are ignored, and
nothing is read through links or outside the folder.
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
  """One file to make, and everything that determines its pixels.

  `found` names metadata that is known only once it is made, such as its score;
  `line` is that of its prompt in the file.
  """

  file: str
  about: Mapping[str, Any]
  found: tuple[str, ...] = ()
  line: int = 1


def check_places(file: pathlib.Path, folder: pathlib.Path) -> None:
  """Raises UserError unless both can be written without leaving the folder."""
  if os.path.lexists(file) and (file.is_symlink() or not file.is_file()):
    raise UserError(
      f'{file} is not a regular file; remove it or choose another --out.',
      key='--out',
      value=str(file),
    )
  if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
    raise UserError(
      f'{folder} is not a folder; remove it or choose another --out.',
      key='--out',
      value=str(folder),
    )


def check_free(path: pathlib.Path) -> None:
  """Raises UserError if a folder is in the place of a file."""
  if path.is_dir() and not path.is_symlink():
    raise UserError(
      f'{path} is a folder, where a file is to be written; move it '
      'away or choose another --out.',
      key='--out',
      value=str(path),
    )


def read_list(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Objects of a JSON-lines file; other lines are skipped."""
  if not path.is_file():
    return
  with open_regular(path) as file:
    try:
      for _, line, whole in lines(file, _MOST_BYTES):
        if whole and (value := _object(line)) is not None:
          yield value
    except ValueError:  # An endless line.
      return


def describes(line: Mapping[str, Any], picture: Picture) -> bool:
  """Whether a line has the metadata of a picture, with the right types."""
  types = picture.about | {k: 0 for k in picture.found if k in line}
  needed = {'prompt', 'number'} & {*picture.about, *picture.found}
  return needed <= set(line) and all(
    _kind(line[k]) == _kind(v) for k, v in types.items() if k in line
  )


class ExistingPictures:
  """Pictures in a folder and its shards.

  Attributes:
    loose: names of single pictures in the folder.
    inside: the shard of each picture that is in one.
    damaged: names of damaged files.
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
    """Whether a picture exists and appears complete."""
    if file in self.inside:
      return True
    if file not in self.loose:
      return False
    if images.is_whole(self._parts / file):
      return True
    self.damaged.append(file)
    return False

  def drop(self, file: str) -> None:
    """Removes a picture that turned out to be damaged."""
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
