"""Importance of a transformer's blocks, by which SANA-1.5 prunes them.

    importance of a block = 1 - E cos(x before it, x after it)

over prompts, times and tokens (arXiv:2501.18427, section 2.2, as in ShortGPT,
arXiv:2403.03853): a block that leaves the direction of every token as it is
has none. The cosine is computed from the distance of the unit vectors, which is
exactly 0 for equal ones. Only sums over blocks are kept.
"""

from collections.abc import Callable, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.diffusion.denoiser import Denoiser
from sana_jax.diffusion.paths import Flow
from sana_jax.errors import UserError
from sana_jax.inference import randomness
from sana_jax.inference.pipeline import Pipeline
from sana_jax.typing import Array, Bool, Float, Params

# For a model that lists no examples of its own.
PROMPTS = (
  'a photo of an old lighthouse on a cliff at sunset',
  'a bowl of ramen with a soft boiled egg, seen from above',
  'portrait of a woman with freckles in a green sweater, soft light',
  'a red bicycle leaning against a yellow wall',
  'two cats sleeping on a sofa',
  'a watercolor of a mountain lake with pine trees',
  'a street in Tokyo at night, neon signs in the rain',
  'an astronaut riding a horse',
  'a wooden chair left of a round table',
  'three oranges and a glass of water on a kitchen counter',
  'a macro photo of a bee on a purple flower',
  'a steam locomotive crossing a stone bridge',
  'a low poly render of a fox',
  'a sign with the word "open" above the door of a bakery',
  'an aerial view of a river delta',
  'a child flying a kite on the beach',
  'a black and white photo of a jazz trumpeter',
  'a cross section of a ship, technical drawing',
  'a plate of sushi, studio light',
  'a castle in the clouds, fantasy art',
)


def measure(
  pipe: Pipeline,
  prompts: Sequence[str],
  data: Float[np.ndarray, 'n y x c']
  | Float[Array, 'n y x c']
  | str = 'pictures',
  *,
  levels: int = 20,
  seed: int = 0,
  batch_size: int = 8,
  on_level: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
  """Importance of each block, as float64.

  Args:
    prompts: one for each latent.
    data: latents without noise; 'pictures' draws them from the prompts, and
      'noise' takes noise alone at every time.
    levels: times, evenly spaced in the middle of parts of [0, 1].
    on_level: called with the number of latents after each time of a batch.
  """
  times = (np.arange(levels) + 0.5) / levels
  module = pipe.transformer.module
  sums = np.zeros(module.depth)
  guidance = (
    jnp.float32(pipe.default('guidance_scale'))
    if module.guidance_embeds
    else None
  )
  for start in range(0, len(prompts), batch_size):
    chosen = list(prompts[start : start + batch_size])
    seeds = [seed + start + i for i in range(len(chosen))]
    given = data if isinstance(data, str) else data[start:][: len(chosen)]
    x0, noise = _ends(pipe, chosen, given, seeds)
    (text, mask), _ = pipe.encode_prompts(chosen)
    for t in times:
      x = noise if x0 is None else Flow().interpolate(x0, noise, jnp.float32(t))
      found = distances(
        Denoiser(module),
        pipe.transformer.variables['params'],
        x,
        jnp.float32(t),
        text,
        mask,
        guidance,
      )
      sums += np.asarray(found, np.float64) * len(chosen)
      on_level(len(chosen))
  return sums / (len(prompts) * levels)


def _ends(pipe, prompts, data, seeds):
  """Latents without noise, or None for noise alone, and noise."""
  size = (pipe.size_px,) * 2
  # Another noise than that of a picture of the same seed.
  noise = pipe.noise(
    *randomness.of_pictures(len(prompts), seeds, 1, [1] * len(prompts)), size
  )
  if isinstance(data, str):
    if data == 'noise':
      return None, noise
    data = pipe.draw(prompts, seed=seeds, output_type='latent')
  return jnp.asarray(data, jnp.float32), noise


@functools.partial(jax.jit, static_argnums=0)
def distances(
  denoiser: Denoiser,
  params: Params,
  x: Float[Array, 'b y x c'],
  t: Float[Array, ''],
  text: Float[Array, 'b m e'],
  mask: Bool[Array, 'b m'],
  guidance: Float[Array, ''] | None = None,
) -> Float[Array, 'n']:
  """1 - cosine of the inputs and outputs of each block, mean over tokens."""
  module = denoiser.module
  condition = denoiser.condition(params, text, mask, guidance)
  every = tuple(range(module.depth))
  found = denoiser(params, x, t, condition, features=every).features
  first, _ = module.apply(
    {'params': params}, x.astype(module.dtype), method='tokens'
  )
  units = [_unit(x) for x in (first, *found)]
  return jnp.stack(
    [
      jnp.mean(jnp.sum((after - before) ** 2, axis=-1)) / 2
      for before, after in zip(units, units[1:])
    ]
  )


def _unit(x):
  x = x.astype(jnp.float32)
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def most_important(importance: Sequence[float], depth: int) -> list[int]:
  """The `depth` blocks to keep, in their order; of equals, the first ones.

  Raises UserError unless some of the blocks are left out, and not all.
  """
  count = len(importance)
  if not 0 < depth < count:
    raise UserError(
      f'--depth is {depth} and the model has {count} blocks; allowed is 1 to '
      f'{count - 1}.',
      key='--depth',
      value=depth,
      allowed=f'1 to {count - 1}',
    )
  ranked = sorted(range(count), key=lambda i: (-importance[i], i))
  return sorted(ranked[:depth])
