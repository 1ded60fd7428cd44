"""Imports from a checkout that is not installed.

An installation puts kernels/, configs/ and launch/ into this package; in a
checkout they are its siblings.
"""

from collections.abc import Sequence
import importlib.abc
import importlib.machinery
import importlib.util
import pathlib
import sys

NAMES = ('configs', 'kernels', 'launch')


class Finder(importlib.abc.MetaPathFinder):
  """Finder of the packages that are siblings of the folder of `package`."""

  def __init__(self, package: str, root: pathlib.Path):
    self._folders = {f'{package}.{name}': root / name for name in NAMES}

  def find_spec(
    self,
    fullname: str,
    path: Sequence[str] | None,
    target=None,
  ) -> importlib.machinery.ModuleSpec | None:
    """Spec of one of the packages; None for any other module."""
    del path, target
    folder = self._folders.get(fullname)
    return folder and importlib.util.spec_from_file_location(
      fullname, folder / '__init__.py', submodule_search_locations=[str(folder)]
    )


def install(package: str, root: pathlib.Path) -> None:
  """Appends the finder, after those of installed packages."""
  sys.meta_path.append(Finder(package, root))
