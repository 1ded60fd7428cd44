"""Inputs that the sampling nodes share, and what ComfyUI's objects need."""

import importlib
from typing import Any

import numpy as np

CATEGORY = 'SANA (JAX)'
OWN = "the model's own"
# Those of sana_jax.diffusion.samplers, which may be absent here.
SAMPLERS = (
  'euler',
  'dpm++1m',
  'dpm++1m-heun',
  'dpm++2m',
  'dpm++2m-heun',
  'dpm++3m',
  'dpm++3m-heun',
  'scm',
)
CONTROL = 'SANA_JAX_CONTROL'
LORA = 'SANA_JAX_LORA'
MOST_SIDE = 2**14
MOST_IMAGES = 64


def of_sampling() -> dict[str, tuple]:
  """Widgets of a sampling node; 0 and -1 stand for the model's own values."""
  return {
    'prompt': ('STRING', {'multiline': True, 'default': 'a red circle'}),
    'negative_prompt': ('STRING', {'multiline': True, 'default': ''}),
    'seed': (
      'INT',
      {
        'default': 0,
        'min': 0,
        'max': 2**31 - 1,
        'control_after_generate': True,
      },
    ),
    'steps': (
      'INT',
      {'default': 0, 'min': 0, 'max': 1000, 'tooltip': f'0: {OWN}'},
    ),
    'guidance_scale': (
      'FLOAT',
      {
        'default': -1.0,
        'min': -1.0,
        'max': 100.0,
        'step': 0.1,
        'tooltip': f'below 0: {OWN}',
      },
    ),
    'sampler': ([OWN, *SAMPLERS], {'default': OWN}),
    'width': ('INT', _side()),
    'height': ('INT', _side()),
    'batch': ('INT', {'default': 1, 'min': 1, 'max': MOST_IMAGES}),
  }


def of_editing() -> dict[str, tuple]:
  """Optional inputs: an image to start from, a mask, and a control image.

  What is white in the mask is repainted.
  """
  number = lambda value, most, step: (
    'FLOAT',
    {'default': value, 'min': 0.0, 'max': most, 'step': step},
  )
  return {
    'image': ('IMAGE', {}),
    'mask': ('MASK', {}),
    'strength': number(1.0, 1.0, 0.05),
    'mask_blur': number(0.0, 100.0, 1.0),
    'control': (CONTROL, {}),
  }


def edit(
  image: Any, mask: Any, strength: float | int, mask_blur: float | int
) -> dict[str, Any]:
  """Arguments of an edit: pixels of the first image and mask, and numbers.

  ComfyUI's tensors have a batch axis and values in [0, 1]. Raises ValueError
  for a mask alone.
  """
  if image is None:
    if mask is not None:
      raise ValueError('A mask is connected, which needs an image.')
    return {}
  found = {'image': pixels(image), 'strength': float(strength)}
  if mask is not None:
    found |= {'mask': pixels(mask), 'mask_blur': float(mask_blur)}
  return found


def pixels(tensor: Any) -> np.ndarray:
  """The first of ComfyUI's images or masks, in 8 bits."""
  first = np.asarray(tensor, np.float32)[0]
  return np.round(np.clip(first, 0, 1) * 255).astype(np.uint8)


def chosen(**values: Any) -> dict[str, Any]:
  """The values that are not left to the model."""
  return {
    key: value
    for key, value in values.items()
    if value != OWN
    and (value >= 0 if key == 'guidance_scale' else value not in (0, ''))
  }


def check_prompt(prompt: str | None) -> bool | str:
  """ComfyUI's validation: True, or an error; None for a linked prompt."""
  if prompt is not None and not str(prompt).strip():
    return 'The prompt is empty; describe a picture.'
  return True


def tensor(images: np.ndarray) -> Any:
  """ComfyUI's IMAGE: a torch tensor [b, y, x, 3] in [0, 1], of uint8 pixels."""
  torch = importlib.import_module('torch')  # ComfyUI has it.
  return torch.from_numpy(np.asarray(images, np.float32) / 255)


class Progress:
  """ComfyUI's progress bar and its Cancel button; without ComfyUI, neither."""

  def __init__(self, steps: int):
    self._bar = self._check = None
    try:
      utils = importlib.import_module('comfy.utils')
      management = importlib.import_module('comfy.model_management')
    except ImportError:
      return
    self._bar = utils.ProgressBar(steps)
    self._check = management.throw_exception_if_processing_interrupted

  def __call__(self, done: int) -> None:
    """Shows the steps done; raises ComfyUI's exception after Cancel."""
    self.check()
    if self._bar is not None:
      self._bar.update_absolute(done)

  def check(self) -> None:
    """Raises ComfyUI's exception after Cancel."""
    if self._check is not None:
      self._check()


def _side():
  tooltip = f'0: {OWN}'
  return {
    'default': 0,
    'min': 0,
    'max': MOST_SIDE,
    'step': 8,
    'tooltip': tooltip,
  }
