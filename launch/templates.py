"""Templates of scripts with {{names}}."""

from collections.abc import Mapping
import pathlib
import re

_FOLDER = pathlib.Path(__file__).parent


def fill(template: str, values: Mapping[str, str]) -> str:
  """Fills each {{name}} of a file in this folder; all values must be used.

  A line that consists of an empty value is omitted.
  """
  text = (_FOLDER / template).read_text(encoding='utf-8')
  names = set(re.findall(r'\{\{(\w+)\}\}', text))
  if names != set(values):
    raise KeyError(f'{template} and its values differ in {names ^ set(values)}')
  for name in (n for n, value in values.items() if not value):
    text = re.sub(rf'(?m)^ *\{{\{{{name}\}}\}}\n', '', text)
  return re.sub(r'\{\{(\w+)\}\}', lambda m: values[m[1]], text)
