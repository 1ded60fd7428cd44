"""Pipeline from prompts to pictures, with three pure, jitted stages.

  prompts --encode--> text --denoise--> latents --decode--> images

The stages follow diffusers' SanaPipeline: the same latents, the same picture.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sana_jax.diffusion import inpainting
from sana_jax.diffusion.guidance import Guidance
from sana_jax.inference import (
  arguments,
  decoding,
  denoising,
  diffusers_names,
  editing,
  few_steps,
  hints,
  randomness,
  texts,
)
from sana_jax.inference.conventions import Convention, DIFFUSERS
from sana_jax.inference.models import Models
from sana_jax.inference.schedulers import time_grid
from sana_jax.inference.strip_decoding import Strips
from sana_jax.inference.tiling import Tiles
from sana_jax.models.controlled import Hint
from sana_jax.sharding.mesh import to_host
from sana_jax.text.prompts import INSTRUCTION
from sana_jax.typing import Array, Bool, Float, Int, Keys


class Output(NamedTuple):
  """Images of a call, in order: a list of PIL images, or an array."""

  images: list[Image.Image] | np.ndarray


class Pipeline(Models):
  """Models that make pictures of prompts; see `Models` for loading them."""

  def draw(
    self,
    prompts: str | Sequence[str],
    *,
    height: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    guidance_scale: float | int | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    num_images: int = 1,
    seed: int | Sequence[int] = 0,
    numbers: Sequence[int] | None = None,
    latents: Array | np.ndarray | None = None,
    sampler: str | None = None,
    output_type: str = 'uint8',
    use_resolution_binning: bool = True,
    instruction: str | Sequence[str] | None = INSTRUCTION,
    guidance: Guidance | Mapping[str, Any] | None = None,
    flow_shift: float | None = None,
    times: Sequence[float | int] | None = None,
    image: Any = None,
    strength: float | int | None = None,
    mask: Any = None,
    mask_blur: float | int = 0,
    padding_mask_crop: int | None = None,
    control_image: Any = None,
    control: Mapping[str, Any] | None = None,
    convention: Convention = DIFFUSERS,
    parts: Strips | Tiles | str | None = None,
    on_step: Callable[[int], None] | None = None,
    on_estimate: Callable[[int, Callable[[], Array]], None] | None = None,
  ) -> Array:
    """`num_images` pictures of each prompt, in order: [n, height, width, 3].

    They may still be in flight; a call of the pipeline waits for them.
    Raises UserError for an invalid value, by its name.

    Args:
      height, width: in pixels; the image's or the model's own by default.
      steps: by default the model's recommendation, else 20; a Sprint's 2.
      guidance_scale: of classifier-free guidance; 1 or less disables it; by
        default the model's recommendation, else 4.5.
      seed: one, or one for each prompt. Picture k of a prompt depends on the
        prompt, its seed and k, not on the others in the call.
      numbers: k, by default from 0; one for each prompt if num_images is 1.
      latents: noise, [n, height/f, width/f, channels].
      sampler, flow_shift: the checkpoint's by default.
      times: of the sampler scm, the angles of its steps, such as [1.5708, 1.3].
      image: a path, PIL image or array to start from, or a list, one a prompt.
      strength: from 0, the image, to 1, noise (default: .6, with a mask 1).
      mask: like `image`, of its size; white is repainted, the rest unchanged.
      mask_blur: radius of the mask's soft edge in pixels.
      padding_mask_crop: margin in pixels of a part to draw, around the mask.
      control_image: of a ControlNet; one, or one for each prompt.
      control: options of ControlNets, also of several, see inference/hints.py.
      output_type: 'uint8', 'float' (in [0, 1]) or 'latent' (like `latents`).
      use_resolution_binning: draw in the nearest trained size, and crop.
      negative_prompt: text to guide away from; one, or one for each prompt.
      instruction: prefix of each prompt: a text, its lines, or None.
      guidance: other options, as in {'pag_scale': 2.}; or all, a Guidance.
      convention: the choices where diffusers and the official code differ.
      parts: of large decodes, to save memory: 'strips' gives the same picture,
        'tiles' that of enable_tiling; or Strips, or Tiles.
      on_step: called after each step with the number done; may raise to stop.
      on_estimate: called likewise, with a function for the expected `latents`.
    """
    given = locals()
    del given['self']
    return self._draw(arguments.call(given, self._own()))

  def _own(self):
    """The model's values for arguments that are not given."""
    return {
      'height': self.size_px,
      'width': self.size_px,
      'steps': self.default('steps'),
      'guidance_scale': self.default('guidance_scale'),
      'sampler': self.sampler,
      'flow_shift': self.flow_shift,
    }

  def _draw(self, call):
    parts = arguments.parts_of(call.parts, self.autoencoder.module.spec.side)
    few_steps.check(self, call)
    edits = editing.of_prompts(self, call)
    pictures = randomness.of_pictures(
      len(call.prompts), call.seed, call.num_images, call.numbers
    )
    noise = self.noise(*pictures, edits[0].size, call.latents)
    encoded = self.encode_prompts(
      call.prompts, call.negative_prompt, call.instruction
    )
    denoised = self.denoise(
      noise,
      *texts.repeated(*encoded, call.num_images),
      steps=call.steps,
      guidance=call.guidance,
      sampler=call.sampler,
      flow_shift=call.flow_shift,
      times=call.times,
      convention=call.convention,
      on_step=call.on_step,
      on_estimate=call.on_estimate,
      rng=randomness.draw_keys(*pictures),
      **editing.start(self, edits, parts, call.num_images),
      control=hints.of_call(self, call, edits[0].size),
    )
    return self._output(denoised, call.output_type, edits, parts)

  def __call__(self, *args, output_type: str = 'pil', **kwargs) -> Output:
    """PIL images, or NumPy arrays for another output type of `draw`.

    Takes the arguments of `draw`, and diffusers' names for them.
    """
    kwargs = diffusers_names.arguments(
      kwargs, inspect.signature(self.draw).parameters
    )
    output_type = diffusers_names.output_type(output_type)
    arguments.check_output_type(output_type)
    is_8_bit = output_type in ('pil', 'uint8')
    kind = 'float' if is_8_bit else output_type
    images = self.draw(*args, output_type=kind, **kwargs)
    decoding.warn_of_nan(images)
    images = to_host(decoding.to_uint8(images) if is_8_bit else images)
    if output_type == 'pil':
      return Output([Image.fromarray(image) for image in images])
    return Output(images)

  def noise(
    self,
    seeds: Int[Array, 'b'],
    numbers: Int[Array, 'b'],
    size: tuple[int, int],
    latents: Array | np.ndarray | None = None,
  ) -> Float[Array, 'b y x c']:
    """The latents at t = 1, given or random, in float32."""
    f = self.autoencoder.module.spec.side
    shape = (size[0] // f, size[1] // f, self.transformer.module.in_channels)
    if latents is None:
      return self.split(randomness.draw_noise(seeds, numbers, shape))
    arguments.check_latents(latents, (len(numbers), *shape))
    return self.split(jnp.asarray(latents, jnp.float32))

  def encode_prompts(
    self,
    prompts: Sequence[str],
    negative_prompt: str | Sequence[str] | None = None,
    instruction: str | Sequence[str] | None = INSTRUCTION,
  ):
    """((embeddings, mask) of the prompts, the same of the negative ones).

    There is a negative one for each prompt, or one for all, or None if the
    model has its guidance scale as an input.
    """
    return texts.encoded(self, prompts, negative_prompt, instruction)

  def denoise(
    self,
    noise: Float[Array, 'b *p c'],
    text,
    negative,
    *,
    steps: int = 20,
    guidance: Guidance | float = 4.5,
    sampler: str | None = None,
    flow_shift: float | None = None,
    times: Sequence[float | int] | None = None,
    convention: Convention = DIFFUSERS,
    on_step: Callable[[int], None] | None = None,
    on_estimate: Callable[[int, Callable[[], Array]], None] | None = None,
    rng: Keys | None = None,
    image: Float[Array, '#b *p c'] | None = None,
    mask: Bool[Array, '#b *p 1'] | None = None,
    strength: float | None = None,
    control: tuple[Hint, ...] | None = None,
  ) -> Float[Array, 'b *p c']:
    """Latents at t = 0; text is (embeddings, mask), one for each image.

    `rng`, one key for each image, is used by samplers that draw noise. `image`,
    latents to start from, and the mask are those of diffusion/inpainting.py.
    `control` has a hint for each ControlNet, None for the transformer alone.
    """
    name = sampler or self.sampler
    shift = flow_shift or self.flow_shift
    if strength == 0:
      return self.split(jnp.broadcast_to(image, noise.shape))
    grid = time_grid(name, steps, shift, convention, times, strength or 1.0)
    if convention.prompt_mask and negative is not None:
      negative = negative[0], text[1]
    if not isinstance(guidance, Guidance):
      guidance = Guidance(float(guidance))
    run = denoising.runner(on_step, on_estimate)
    start, known = inpainting.begin(noise, grid, image, mask, strength)
    with self.on_mesh():
      return run(
        *hints.network(self, control),
        self.split(start),
        jax.tree.map(self.split, text),
        negative,
        grid,
        sampler=name,
        guidance=guidance,
        rng=None if rng is None else self.split(rng),
        known=known,
        control=control and jax.tree.map(self.split, control),
      )

  def decode(
    self,
    latents: Float[Array, 'b y x c'],
    size: tuple[int, int] | None = None,
    parts: Strips | Tiles | None = None,
  ) -> Float[Array, 'b y2 x2 3']:
    """Images in [0, 1] of the transformer's latents, scaled to cover `size`."""
    with self.on_mesh():
      return decoding.decode(
        self.autoencoder.module,
        self.autoencoder.variables,
        self.split(latents),
        size,
        parts,
      )

  def _output(self, latents, output_type, edits, parts):
    if output_type == 'latent':
      return latents
    decode = functools.partial(self.decode, parts=parts)
    images = editing.finished(edits, latents, decode)
    return decoding.to_uint8(images) if output_type == 'uint8' else images
