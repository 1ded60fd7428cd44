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
# The benchmark's tokenizer has more tokens than the shipped models'.
_VOCABULARY = {'text_encoder': {'vocab_size': 1024}}
SHIPPED = ('shapes', 'shapes-sprint')
# Steps of a request, and of a SANA-Sprint's.
STEPS, FEW_STEPS = 20, 2


@dataclasses.dataclass(frozen=True)
class Request:
  """Images of one prompt, by a zoo or shipped model with random weights."""

  model: str
  height: int
  width: int
  steps: int = 20
  batch: int = 1
  guidance_scale: float = 4.5
  dtype: str = 'float32'
  # Backends of ops, where not the fastest available.
  kernels: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)
  # The flow model of the same size that a SANA-Sprint is distilled from.
  teacher: bool = False

  @property
  def latent_shape(self) -> tuple[int, int, int, int]:
    """Shape [b y x c] of the noise."""
    f, channels = self.side, self.config('transformer')['in_channels']
    return self.batch, self.height // f, self.width // f, channels

  @property
  def side(self) -> int:
    """Pixels of a latent's side."""
    return kinds.PARTS['vae'].module(self.config('vae'), self.dtype).spec.side

  def config(self, part: str) -> dict[str, Any]:
    """config.json of a part of the model."""
    config = _config(self.model, part)
    return config | ({'guidance_embeds': False} if self._is_flow(part) else {})

  def of_teacher(self) -> 'Request':
    """The same images by the teacher, in its usual number of steps."""
    return dataclasses.replace(self, teacher=True, steps=STEPS)

  def _is_flow(self, part):
    return self.teacher and part == 'transformer'


def request(
  model: str, size: int | None, steps: int | None = None, **options
) -> Request:
  """A validated Request, by default of the model's own square size."""
  if model not in SHIPPED and not zoo.get(model).can_sample:
    raise UserError(
      f'--model={model} makes no pictures of prompts; see sana-jax zoo.',
      key='--model',
      value=model,
    )
  own = Request(model, 1, 1)
  f, transformer = own.side, own.config('transformer')
  size = size or transformer['sample_size'] * f
  if size % f:
    raise UserError(
      f'--size={size} must be a multiple of {f}, the '
      "autoencoder's compression.",
      key='--size',
      value=size,
      allowed=f'multiples of {f}',
    )
  usual = FEW_STEPS if transformer.get('guidance_embeds') else STEPS
  return Request(model, size, size, steps or usual, **options)


def _config(model, part):
  if model not in SHIPPED:
    return zoo.get(model).configs()[part]
  path = hub.ASSETS / model / part / 'config.json'
  return folder.read_json(path) | _VOCABULARY.get(part, {})
