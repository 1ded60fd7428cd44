"""Nodes that load a model and sample in ComfyUI's own process, with JAX."""

import importlib.util
import os
import sys
from typing import Any

from . import inputs

_DTYPES = ('default', 'float32', 'bfloat16', 'float16')
# Workflows come from strangers: a model is downloaded only if this is set.
DOWNLOAD = 'SANA_JAX_COMFYUI_DOWNLOAD'


class LoadPipeline:
  """A pipeline from a folder, a name of the zoo, a hub id or `shapes`."""

  RETURN_TYPES = ('SANA_JAX_PIPELINE',)
  RETURN_NAMES = ('pipeline',)
  FUNCTION = 'load'
  CATEGORY = inputs.CATEGORY
  DESCRIPTION = 'Loads a SANA model in JAX: a folder, a zoo name or a hub id.'

  @classmethod
  def INPUT_TYPES(cls) -> dict:
    """ComfyUI's description of the widgets."""
    return {
      'required': {
        'model': ('STRING', {'default': 'shapes'}),
        'dtype': (list(_DTYPES), {'default': 'default'}),
      }
    }

  @classmethod
  def IS_CHANGED(cls, model: str = '', **_) -> str:
    """Changes with the files of a folder, so that it is loaded again."""
    return fingerprint(model)

  @classmethod
  def VALIDATE_INPUTS(cls, model: str | None = None) -> bool | str:
    """True, or an error in a sentence."""
    if model is not None and not str(model).strip():
      return 'The model has no name; give a folder, a zoo name or shapes.'
    return True

  def load(self, model: str, dtype: str) -> tuple[Any]:
    """(pipeline,); errors are sentences."""
    _check_installed()
    if 'jax' not in sys.modules:  # torch uses the same memory.
      os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    import sana_jax
    from sana_jax.weights import hub

    name = model.strip()
    folder = hub.find(name, download=may_download())
    chosen = None if dtype == 'default' else dtype
    # With the encoder, for images to start from.
    pipe = sana_jax.Pipeline.from_pretrained(folder, chosen, encoder=True)
    return (pipe,)


class Sample:
  """Pictures of a prompt; the same inputs give the same pictures."""

  RETURN_TYPES = ('IMAGE',)
  FUNCTION = 'sample'
  CATEGORY = inputs.CATEGORY
  DESCRIPTION = 'Draws pictures of a prompt with a SANA model in JAX.'

  @classmethod
  def INPUT_TYPES(cls) -> dict:
    """ComfyUI's description of the widgets."""
    pipeline = {'pipeline': ('SANA_JAX_PIPELINE', {})}
    return {
      'required': pipeline | inputs.of_sampling(),
      'optional': inputs.of_editing(),
    }

  @classmethod
  def VALIDATE_INPUTS(cls, prompt: str | None = None) -> bool | str:
    """True, or an error in a sentence."""
    return inputs.check_prompt(prompt)

  def sample(
    self,
    pipeline: Any,
    prompt: str,
    negative_prompt: str,
    seed: int,
    steps: int,
    guidance_scale: float | int,
    sampler: str,
    width: int,
    height: int,
    batch: int,
    image: Any = None,
    mask: Any = None,
    strength: float | int = 1.0,
    mask_blur: float | int = 0.0,
    control: dict[str, Any] | None = None,
  ) -> tuple[Any]:
    """(images,); errors are sentences."""
    settings = inputs.chosen(
      negative_prompt=negative_prompt,
      steps=steps,
      guidance_scale=guidance_scale,
      sampler=sampler,
      width=width,
      height=height,
    ) | inputs.edit(image, mask, strength, mask_blur)
    if control is not None:
      settings |= {
        'control_image': control['image'],
        'control': control['options'],
      }
    elif pipeline.controlnets:  # The model draws alone.
      pipeline = pipeline.replace(controlnets=())
    steps = _evaluations(pipeline, settings)
    images = pipeline(
      prompt,
      seed=seed,
      num_images=batch,
      output_type='uint8',
      on_step=inputs.Progress(steps),
      **settings,
    ).images
    return (inputs.tensor(images),)


def may_download() -> bool:
  """Whether models may be downloaded."""
  return os.environ.get(DOWNLOAD) == '1'


def fingerprint(path: str) -> str:
  """Names, sizes and times of a file or of all in a folder; '' for none."""
  path, found = os.path.expanduser(path.strip()), []
  folders = sorted(os.walk(path)) if path else []
  names = [os.path.join(root, x) for root, _, files in folders for x in files]
  for name in sorted([path, *names]):
    if os.path.isfile(name):
      about = os.stat(name)
      found.append(f'{name} {about.st_size} {about.st_mtime_ns}')
  return '\n'.join(found)


def _evaluations(pipeline, settings):
  """Steps that the progress bar shows."""
  from sana_jax.inference import few_steps

  return few_steps.evaluations(
    settings.get('sampler') or pipeline.sampler,
    settings.get('steps') or pipeline.default('steps'),
    settings.get('strength'),
  )


def _check_installed():
  if importlib.util.find_spec('sana_jax') is None:
    raise RuntimeError(
      'sana_jax is not installed in the environment of ComfyUI; install it '
      'there, or use the node for a demo server.'
    )
