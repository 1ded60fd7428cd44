"""Static transitive imports of a module."""

import ast
from collections.abc import Iterator
import pathlib

PACKAGE = 'sana_jax'


def imported_files(root: pathlib.Path, module: str) -> set[pathlib.Path]:
  """The module's file and those below `root` that it imports transitively.

  Includes imports inside functions, but not those of the package's __init__.

  Args:
    root: folder of the package.
    module: dotted name within the package.
  """
  found, waiting = set(), [module]
  while waiting:
    for path in _files(root, waiting.pop()):
      if path not in found:
        found.add(path)
        waiting += _imports(path)
  return found


def _files(root: pathlib.Path, module: str) -> Iterator[pathlib.Path]:
  """Files that importing a module, or a name in one, runs."""
  folder = root
  for part in module.split('.'):
    folder = folder / part
    for path in (folder.with_name(f'{part}.py'), folder / '__init__.py'):
      if path.is_file():
        yield path


def _imports(path: pathlib.Path) -> Iterator[str]:
  """Dotted names within the package that a file imports."""
  for node in ast.walk(ast.parse(path.read_bytes())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    else:
      continue
    for name in names:
      if name.startswith(f'{PACKAGE}.'):
        yield name.removeprefix(f'{PACKAGE}.')
