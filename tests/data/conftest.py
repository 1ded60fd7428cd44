"""Makes written.py importable by that name: tests are not a package."""

import importlib.util
import pathlib
import sys

_spec = importlib.util.spec_from_file_location(
  'written', pathlib.Path(__file__).with_name('written.py')
)
sys.modules['written'] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules['written'])
