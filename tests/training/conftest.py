"""The small tasks for every test here."""

import importlib.util
import pathlib
import shutil
import sys

import pytest

# Tests import the modules beside them by name: they are no package.
sys.path.append(str(pathlib.Path(__file__).parent))


def _load(name):
  path = pathlib.Path(__file__).with_name(f'{name}.py')
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='session')
def flow():
  """The module flow.py, the same with a Sana."""
  return _load('flow')


@pytest.fixture(scope='session')
def load_module():
  """Any module beside this file, by name."""
  return _load


@pytest.fixture(scope='session')
def whole(toy, tmp_path_factory):
  """Workdir and last state of a run of ten steps, which no test changes."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, toy.run(folder, pictures_every_steps=5)


@pytest.fixture(scope='session')
def half(toy, tmp_path_factory):
  """The same of its first five steps."""
  folder = tmp_path_factory.mktemp('half')
  return folder, toy.run(folder, num_steps=5)


@pytest.fixture
def cut(half, tmp_path):
  """A copy of the workdir of the first five steps."""
  return shutil.copytree(half[0], tmp_path / 'cut')
