"""The toy task for every test here."""

import importlib.util
import pathlib

import pytest


@pytest.fixture(scope='session')
def toy():
  """The module toy.py beside this file, which is a script as well."""
  path = pathlib.Path(__file__).with_name('toy.py')
  spec = importlib.util.spec_from_file_location('toy', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
