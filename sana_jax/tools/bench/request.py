"""The timed request: a call of the pipeline, in three stages."""

import dataclasses
from typing import Any

from sana_jax.errors import UserError
from sana_jax.weights import folder, hub, kinds, zoo

STAGES = ('text', 'denoise', 'decode')
# Parts of a model folder.
PARTS = {'text': 'text_encoder', 'denoise': 'transformer', 'decode': 'vae'}
# 24 words, like a user's prompt.
PROMPT = (
  'A lighthouse on a cliff above a stormy sea at dusk, waves breaking '
  'over black rocks, warm light in its windows, oil painting'
)
# The shipped model, small enough for tests. The benchmark's tokenizer has more
# tokens than the model's.
SMALL = 'shapes'
_VOCABULARY = {'text_encoder': {'vocab_size': 1024}}


@dataclasses.dataclass(frozen=True)
class Request:
  """Images of one prompt, by a zoo model (or SMALL) with random weights."""

  model: str
  height: int
  width: int
  steps: int = 20
  batch: int = 1
  guidance_scale: float = 4.5
  dtype: str = 'float32'
  # Backends of ops, where not the fastest available.
  kernels: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)

  @property
  def latent_shape(self) -> tuple[int, int, int, int]:
    """Shape [b y x c] of the noise."""
    transformer, vae = (
      kinds.PARTS[part].module(self.config(part), self.dtype)
      for part in ('transformer', 'vae')
    )
    f = vae.spec.side
    channels = transformer.in_channels
    return self.batch, self.height // f, self.width // f, channels

  def config(self, part: str) -> dict[str, Any]:
    """config.json of a part of the model."""
    if self.model == SMALL:
      path = hub.ASSETS / SMALL / part / 'config.json'
      return folder.read_json(path) | _VOCABULARY.get(part, {})
    return zoo.get(self.model).configs()[part]


def request(model: str, size: int | None, **options) -> Request:
  """A validated Request, by default of the model's own square size."""
  entry = zoo.get(model)
  if entry.kind != 'pipeline':
    raise UserError(
      f'--model={model} is no model that makes pictures of '
      'prompts in several steps; see sana-jax zoo.',
      key='--model',
      value=model,
    )
  size = size or entry.size_px
  f = entry.module('vae').spec.side
  if size % f:
    raise UserError(
      f'--size={size} must be a multiple of {f}, the '
      "autoencoder's compression.",
      key='--size',
      value=size,
      allowed=f'multiples of {f}',
    )
  return Request(model, size, size, **options)
