"""Nodes as ComfyUI loads them, and stand-ins for its own modules."""

import pathlib
import shutil
import sys
import types

from comfyui import runner
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / 'sana_jax' / 'comfyui'


@pytest.fixture(scope='session')
def nodes(tmp_path_factory):
  """Classes by name, of a copy in a folder custom_nodes."""
  copy = tmp_path_factory.mktemp('ComfyUI-0.3.0') / 'custom_nodes' / 'sana_jax'
  shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns('__pycache__'))
  module = runner.load(copy)
  assert set(module.NODE_CLASS_MAPPINGS) == {*module.NODE_DISPLAY_NAME_MAPPINGS}
  return module.NODE_CLASS_MAPPINGS


class Tensor(np.ndarray):
  """Stands for torch's: the float32 array that it was made from."""


@pytest.fixture(autouse=True)
def torch(monkeypatch):
  module = types.ModuleType('torch')
  module.from_numpy = lambda x: x.view(Tensor)
  monkeypatch.setitem(sys.modules, 'torch', module)


@pytest.fixture
def comfy(monkeypatch):
  """ComfyUI's progress bar and Cancel button; `cancelled` presses it."""

  class Bar:
    def __init__(self, total):
      state.total = total

    def update_absolute(self, value):
      state.done.append(value)

  def check():
    if state.cancelled:
      raise KeyboardInterrupt('cancelled')

  state = types.SimpleNamespace(total=None, done=[], cancelled=False)
  parts = {
    'comfy': {'__path__': []},
    'comfy.utils': {'ProgressBar': Bar},
    'comfy.model_management': {
      'throw_exception_if_processing_interrupted': check
    },
  }
  for name, content in parts.items():
    module = types.ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
  return state


@pytest.fixture(scope='session')
def tiny_sana():
  return ROOT / 'tests/golden/tiny_sana'
