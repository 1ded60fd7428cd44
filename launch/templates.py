"""Scripts with {{names}} to fill in."""

from collections.abc import Mapping
import pathlib
import re

_FOLDER = pathlib.Path(__file__).parent


def fill(template: str, values: Mapping[str, str]) -> str:
  """A file of this folder, with each {{name}} replaced; all are used.

  A line with an empty value alone is left out.
  """
  text = (_FOLDER / template).read_text(encoding='utf-8')
  names = set(re.findall(r'\{\{(\w+)\}\}', text))
  if names != set(values):
    raise KeyError(f'{template} and its values differ in {names ^ set(values)}')
  for name in (n for n, value in values.items() if not value):
    text = re.sub(rf'(?m)^ *\{{\{{{name}\}}\}}\n', '', text)
  return re.sub(r'\{\{(\w+)\}\}', lambda m: values[m[1]], text)
