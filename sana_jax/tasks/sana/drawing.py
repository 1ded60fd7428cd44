"""Pictures drawn within a run: by its model, with its encoders and settings."""

from collections.abc import Sequence

from ml_collections import ConfigDict
import numpy as np

from sana_jax.inference.pipeline import Pipeline
from sana_jax.tasks.sana import encoders
from sana_jax.typing import Images
from sana_jax.weights.folder import Model


def prompts(text: str) -> list[str]:
  """Prompts of a key that has several, with | between them."""
  return [prompt.strip() for prompt in text.split('|') if prompt.strip()]


def pipeline(config: ConfigDict, transformer: Model) -> Pipeline:
  """A pipeline of the transformer, in config.dtype as in training."""
  return Pipeline(
    transformer,
    encoders.load_autoencoder(config, only='decoder'),
    encoders.load_text_encoder(config),
    encoders.load_tokenizer(config),
    sampler=config.sampling.sampler,
    flow_shift=config.sampling.shift,
  )


def draw(
  pipe: Pipeline,
  config: ConfigDict,
  prompts: Sequence[str],
  seeds: Sequence[int],
  size: tuple[int, int] | None = None,
) -> Images:
  """A picture of each prompt, with the instruction of the training captions.

  Args:
    size: (height, width), exactly; the model's own by default.
  """
  height, width = size or (None, None)
  images = pipe(
    list(prompts),
    height=height,
    width=width,
    steps=config.sampling.steps,
    guidance_scale=config.sampling.guidance_scale,
    seed=seeds,
    instruction=encoders.instruction_of(config),
    use_resolution_binning=size is None,
    output_type='uint8',
  ).images
  return np.asarray(images)
