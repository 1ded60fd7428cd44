"""Nodes for adapters and ControlNets, before a sampling node.

Adapters and nets of a pipeline are loaded here; those of a demo server were
loaded by its command, and a workflow gives their weights and control image.
"""

import importlib
import os
from typing import Any

from . import inputs, library

PIPELINE = 'SANA_JAX_PIPELINE'
_MOST = 100.0  # As of sana_jax.inference.adapters, which may be absent here.
_ANNOTATORS = ('none', 'canny', 'hed', 'scribble')


class LoadLora:
  """A pipeline with one more adapter."""

  RETURN_TYPES = (PIPELINE,)
  RETURN_NAMES = ('pipeline',)
  FUNCTION = 'load'
  CATEGORY = inputs.CATEGORY
  DESCRIPTION = (
    'Adds an adapter: a file of ComfyUI/models/loras by its name, or a path.'
  )

  @classmethod
  def INPUT_TYPES(cls) -> dict:
    """ComfyUI's description of the widgets."""
    return {
      'required': {
        'pipeline': (PIPELINE, {}),
        'lora': ('STRING', {'default': ''}),
        'strength': _strength(),
      }
    }

  @classmethod
  def IS_CHANGED(cls, lora: str = '', **_) -> str:
    """Changes with the file, so that it is loaded again."""
    return library.fingerprint(_lora_file(lora))

  @classmethod
  def VALIDATE_INPUTS(cls, lora: str | None = None) -> bool | str:
    """True, or an error in a sentence."""
    if lora is not None and not str(lora).strip():
      return 'The LoRA has no name; give a file of models/loras, or a path.'
    return True

  def load(self, pipeline: Any, lora: str, strength: float | int) -> tuple[Any]:
    """(pipeline,); errors are sentences. A strength of 0 changes nothing."""
    if strength == 0:
      return (pipeline,)
    return (pipeline.load_lora(_lora_file(lora), float(strength)),)


class LoadControlNet:
  """A pipeline with a ControlNet."""

  RETURN_TYPES = (PIPELINE,)
  RETURN_NAMES = ('pipeline',)
  FUNCTION = 'load'
  CATEGORY = inputs.CATEGORY
  DESCRIPTION = 'Adds a ControlNet: a folder, a hub id or an official file.'

  @classmethod
  def INPUT_TYPES(cls) -> dict:
    """ComfyUI's description of the widgets."""
    return {
      'required': {
        'pipeline': (PIPELINE, {}),
        'controlnet': ('STRING', {'default': 'shapes-control'}),
      }
    }

  @classmethod
  def IS_CHANGED(cls, controlnet: str = '', **_) -> str:
    """Changes with the files, so that it is loaded again."""
    return library.fingerprint(controlnet)

  @classmethod
  def VALIDATE_INPUTS(cls, controlnet: str | None = None) -> bool | str:
    """True, or an error in a sentence."""
    if controlnet is not None and not str(controlnet).strip():
      return 'The ControlNet has no name; give a folder or a hub id.'
    return True

  def load(self, pipeline: Any, controlnet: str) -> tuple[Any]:
    """(pipeline,); errors are sentences."""
    from sana_jax.weights import hub

    name = controlnet.strip()
    if not hub.local(name).is_file():
      name = hub.find(name, download=library.may_download())
    return (pipeline.with_controlnet(name),)


class ControlImage:
  """A control image, and how a ControlNet uses it."""

  RETURN_TYPES = (inputs.CONTROL,)
  RETURN_NAMES = ('control',)
  FUNCTION = 'make'
  CATEGORY = inputs.CATEGORY
  DESCRIPTION = 'A control image for a sampling node.'

  @classmethod
  def INPUT_TYPES(cls) -> dict:
    """ComfyUI's description of the widgets."""
    part = lambda value: (
      'FLOAT',
      {'default': value, 'min': 0.0, 'max': 1.0, 'step': 0.001},
    )
    return {
      'required': {
        'image': ('IMAGE', {}),
        'strength': (
          'FLOAT',
          {'default': 1.0, 'min': 0.0, 'max': 10.0, 'step': 0.01},
        ),
        'start_percent': part(0.0),
        'end_percent': part(1.0),
        'annotator': (list(_ANNOTATORS), {'default': _ANNOTATORS[0]}),
      }
    }

  @classmethod
  def VALIDATE_INPUTS(
    cls,
    start_percent: float | int | None = None,
    end_percent: float | int | None = None,
  ) -> bool | str:
    """True, or an error in a sentence."""
    if None not in (start_percent, end_percent) and (
      start_percent >= end_percent
    ):
      return 'start_percent must be less than end_percent.'
    return True

  def make(
    self,
    image: Any,
    strength: float | int,
    start_percent: float | int,
    end_percent: float | int,
    annotator: str,
  ) -> tuple[dict[str, Any]]:
    """(control,), with the pixels of the first image."""
    options = {
      'scale': float(strength),
      'start': float(start_percent),
      'end': float(end_percent),
      'annotator': '' if annotator == _ANNOTATORS[0] else annotator,
    }
    return ({'image': inputs.pixels(image), 'options': options},)


class ServerLora:
  """Weight of an adapter that a demo server was started with."""

  RETURN_TYPES = (inputs.LORA,)
  RETURN_NAMES = ('lora',)
  FUNCTION = 'make'
  CATEGORY = inputs.CATEGORY
  DESCRIPTION = 'A weight for an adapter of a demo server, by its name there.'

  @classmethod
  def INPUT_TYPES(cls) -> dict:
    """ComfyUI's description of the widgets."""
    return {
      'required': {
        'name': ('STRING', {'default': ''}),
        'strength': _strength(),
      },
      'optional': {'lora': (inputs.LORA, {})},
    }

  @classmethod
  def VALIDATE_INPUTS(cls, name: str | None = None) -> bool | str:
    """True, or an error in a sentence."""
    if name is not None and not str(name).strip():
      return 'The adapter has no name; the page of the demo shows the names.'
    return True

  def make(
    self,
    name: str,
    strength: float | int,
    lora: dict[str, float] | None = None,
  ) -> tuple[dict[str, float]]:
    """(weights by name,), with those of the connected node."""
    return ({**(lora or {}), name.strip(): float(strength)},)


def _strength():
  return (
    'FLOAT',
    {'default': 1.0, 'min': -_MOST, 'max': _MOST, 'step': 0.01},
  )


def _lora_file(name):
  """The path of a file in ComfyUI's models/loras, or the name as a path."""
  name = name.strip()
  try:
    folders = importlib.import_module('folder_paths')
  except ImportError:
    return os.path.expanduser(name)
  found = folders.get_full_path('loras', name) if name else None
  return found or os.path.expanduser(name)
