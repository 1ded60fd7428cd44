"""Pipelines of the golden folders, loaded once."""

import pathlib
import shutil

import pytest

from sana_jax import Pipeline

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'


@pytest.fixture(scope='session')
def pipe():
  return Pipeline.from_pretrained(FOLDER, 'float32')


@pytest.fixture(scope='session')
def editor():
  """The same with its encoder, for images to start from."""
  return Pipeline.from_pretrained(FOLDER, 'float32', encoder=True)


@pytest.fixture(scope='session')
def sprint_folder(tmp_path_factory):
  """A whole SANA-Sprint: tiny_sprint, and the other parts of tiny_sana."""
  folder = tmp_path_factory.mktemp('sprint') / 'model'
  shutil.copytree(
    FOLDER, folder, ignore=shutil.ignore_patterns('golden.safetensors')
  )
  shutil.copytree(FOLDER.with_name('tiny_sprint'), folder, dirs_exist_ok=True)
  return folder


@pytest.fixture(scope='session')
def sprint(sprint_folder):
  return Pipeline.from_pretrained(sprint_folder, 'float32', encoder=True)
