"""Pipeline from prompts to pictures, with three pure, jitted stages.

  prompts --encode--> text --denoise--> latents --decode--> images

The stages follow diffusers' SanaPipeline; a folder in its layout gives the
same picture from the same latents.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import functools
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np
from PIL import Image

from sana_jax.diffusion import samplers
from sana_jax.diffusion.guidance import Guidance
from sana_jax.errors import UserError
from sana_jax.inference import (
  bins,
  decoding,
  denoising,
  model_index,
  randomness,
)
from sana_jax.inference.arguments import (
  check_output_type,
  check_request,
  check_size,
  dtype_of,
  guidance_of,
  OUTPUT_TYPES,
  parts_of,
  text_length,
)
from sana_jax.inference.conventions import Convention, DIFFUSERS
from sana_jax.inference.schedulers import read_scheduler, time_grid
from sana_jax.inference.strip_decoding import Strips
from sana_jax.inference.tiling import Tiles
from sana_jax.sharding.mesh import BATCH_AXES, batch_spec, to_host
from sana_jax.text import encode
from sana_jax.text import prompts as texts
from sana_jax.text import tokenizer as tokenizers
from sana_jax.typing import Array, DType, Float, Int, Keys
from sana_jax.weights import folder as folders
from sana_jax.weights import hub
from sana_jax.weights.folder import Model

# diffusers' names for the same arguments.
_RENAMED = {
  'num_inference_steps': 'steps',
  'num_images_per_prompt': 'num_images',
}


class Output(NamedTuple):
  """Images of a call, in order: a list of PIL images, or an array."""

  images: list[Image.Image] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """The three models, their tokenizer and their recommended sampler.

  With a mesh, the images of a call are sharded over its data and fsdp axes, and
  the rows of each over its sequence axis.
  """

  transformer: Model
  autoencoder: Model
  text_encoder: Model
  tokenizer: Any
  sampler: str = 'dpm++2m'
  flow_shift: float = 3.0
  recommended: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  mesh: Mesh | None = None
  # Prefix KV caches of instructions, and embeddings of negative prompts.
  cache: dict = dataclasses.field(default_factory=dict, compare=False)

  @classmethod
  def from_pretrained(
    cls,
    name: str | os.PathLike,
    dtype: DType = 'bfloat16',
    mesh: Mesh | None = None,
  ) -> 'Pipeline':
    """Loads a folder in the diffusers layout, a hub id or 'shapes'.

    Weights and arithmetic are in `dtype`; norms, softmax and the sums of the
    linear attention are always in float32. Only the decoder of the autoencoder
    is loaded.
    """
    folder, dtype = hub.find(name), dtype_of(dtype)
    recommended = model_index.read(folder)
    scheduler = read_scheduler(folder)
    tokenizer = tokenizers.load(folder / 'tokenizer')
    model_index.check_parts(folder, tokenizer)
    load = functools.partial(folders.load, folder, dtype=dtype, mesh=mesh)
    return cls(
      load('transformer'),
      load('vae', only='decoder'),
      load('text_encoder'),
      tokenizer,
      *scheduler,
      recommended=recommended,
      mesh=mesh,
    )

  def draw(
    self,
    prompts: str | Sequence[str],
    *,
    height: int | None = None,
    width: int | None = None,
    steps: int = 20,
    guidance_scale: float = 4.5,
    negative_prompt: str | Sequence[str] = '',
    num_images: int = 1,
    seed: int | Sequence[int] = 0,
    numbers: Sequence[int] | None = None,
    latents: Array | np.ndarray | None = None,
    sampler: str | None = None,
    output_type: str = 'uint8',
    use_resolution_binning: bool = True,
    instruction: str = texts.INSTRUCTION,
    guidance: Guidance | Mapping[str, Any] | None = None,
    flow_shift: float | None = None,
    convention: Convention = DIFFUSERS,
    parts: Strips | Tiles | str | None = None,
    on_step: Callable[[int], None] | None = None,
  ) -> Array:
    """`num_images` pictures of each prompt, in order: [n, height, width, 3].

    They may still be in flight; a call of the pipeline waits for them.
    Raises UserError for an invalid value, by its name.

    Args:
      height, width: in pixels; the model's own size by default.
      steps: model evaluations, each doubled by guidance.
      guidance_scale: scale of classifier-free guidance; 1 or less disables it.
      seed: one, or one for each prompt. Picture k of a prompt depends on the
        prompt, its seed and k, not on the others in the call.
      numbers: k, by default from 0; one for each prompt if num_images is 1.
      latents: noise to start from, [n, height/f, width/f, channels].
      sampler, flow_shift: the checkpoint's by default.
      output_type: 'uint8', 'float' (in [0, 1]) or 'latent' (like `latents`).
      use_resolution_binning: make the picture at the nearest trained aspect
        ratio, then scale and crop (512 px to 4096 px models).
      negative_prompt: text to guide away from; one, or one for each prompt.
      instruction: prefix of each prompt, not of the negative one.
      guidance: its other options, such as {'pag_scale': 2.}; or a Guidance,
        which replaces `guidance_scale`.
      convention: the choices where diffusers and the official code differ.
      parts: splitting of large decodes to save memory: 'strips' (or Strips)
        gives the same picture, 'tiles' that of enable_tiling.
      on_step: called after each step with the number done; may raise to stop.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    guidance = guidance_of(guidance_scale, guidance)
    check_request(prompts, steps, num_images, output_type, flow_shift)
    parts = parts_of(parts, self.autoencoder.module.spec.side)
    samplers.make(sampler or self.sampler)  # Raises before any work is done.
    shown = [self.size_px if x is None else x for x in (height, width)]
    size = self.trained_size(*shown, use_resolution_binning)
    pictures = randomness.of_pictures(len(prompts), seed, num_images, numbers)
    denoised = self.denoise(
      self.noise(*pictures, size, latents),
      *self._texts(prompts, negative_prompt, instruction, num_images),
      steps=steps,
      guidance=guidance,
      sampler=sampler,
      flow_shift=flow_shift,
      convention=convention,
      on_step=on_step,
      rng=randomness.draw_keys(*pictures),
    )
    return self._output(denoised, output_type, tuple(shown), parts)

  def __call__(self, *args, output_type: str = 'pil', **kwargs) -> Output:
    """PIL images, or NumPy arrays for another output type of `draw`.

    Takes the arguments of `draw`, and diffusers' names for them.
    """
    for other_name, name in _RENAMED.items():
      if other_name in kwargs:
        kwargs[name] = kwargs.pop(other_name)
    check_output_type(output_type, ('pil', *OUTPUT_TYPES))
    kind = 'uint8' if output_type == 'pil' else output_type
    images = to_host(self.draw(*args, output_type=kind, **kwargs))
    if output_type == 'pil':
      return Output([Image.fromarray(image) for image in images])
    return Output(images)

  def replace(self, **changes) -> 'Pipeline':
    """A copy of the pipeline with other parts."""
    if {'text_encoder', 'tokenizer'} & set(changes):
      changes = {'cache': {}, **changes}
    return dataclasses.replace(self, **changes)

  @property
  def size_px(self) -> int:
    """Side of the training images in pixels."""
    return (
      self.transformer.module.sample_size * self.autoencoder.module.spec.side
    )

  def size_of_ratio(self, ratio: float) -> tuple[int, int]:
    """(height, width) near the default area, with width / height = `ratio`.

    It is a trained size if the model has several, otherwise a multiple of the
    autoencoder's compression.
    """
    side, f = self.size_px, self.autoencoder.module.spec.side
    height, width = (
      max(1, round(side * r / f)) * f for r in (ratio**-0.5, ratio**0.5)
    )
    return bins.nearest(height, width, self.transformer.module.sample_size)

  def trained_size(
    self, height: int, width: int, use_resolution_binning: bool = True
  ) -> tuple[int, int]:
    """The size at which a picture of height x width pixels is drawn.

    Raises UserError if the model has no table of trained sizes and the size is
    not a multiple of the autoencoder's compression.
    """
    if use_resolution_binning:
      size = self.transformer.module.sample_size
      if size in bins.TABLES:
        return bins.nearest(height, width, size)
    check_size(height, width, self.autoencoder.module.spec.side)
    return height, width

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
      return self._split(randomness.draw_noise(seeds, numbers, shape))
    if np.shape(latents) != (len(numbers), *shape):
      raise UserError(
        f'latents has the shape {np.shape(latents)}; '
        f'{(len(numbers), *shape)} is needed.',
        key='latents',
        value=np.shape(latents),
        allowed=str((len(numbers), *shape)),
      )
    return self._split(jnp.asarray(latents, jnp.float32))

  def encode_prompts(
    self,
    prompts: Sequence[str],
    negative_prompt: str | Sequence[str] = '',
    instruction: str = texts.INSTRUCTION,
  ):
    """((embeddings, mask) of the prompts, the same of the negative ones).

    There is a negative one for each prompt, or one for all.
    """
    negatives = self._negatives(prompts, negative_prompt)
    length = max(
      text_length(self.tokenizer, prompts, instruction),
      text_length(self.tokenizer, negatives, ''),
    )
    run = functools.partial(
      encode.encode,
      self.text_encoder.module,
      self.text_encoder.variables['params'],
      self.tokenizer,
      length=length,
      prefix_cache=self.cache,
      put=self._split,
    )
    if len(negatives) > 1:
      negative = run(negatives)
    elif (negative := self.cache.get((negatives[0], length))) is None:
      negative = self.cache[negatives[0], length] = run(negatives)
    return run(prompts, instruction=instruction), negative

  def _texts(self, prompts, negative_prompt, instruction, num_images):
    """encode_prompts, with the rows of each prompt repeated for its images."""
    text, negative = self.encode_prompts(prompts, negative_prompt, instruction)
    repeat = lambda x: jnp.repeat(x, num_images, axis=0)
    if len(negative[1]) > 1:
      negative = jax.tree.map(repeat, negative)
    return jax.tree.map(repeat, text), negative

  def _negatives(self, prompts, negative_prompt):
    if isinstance(negative_prompt, str):
      return [negative_prompt]
    if len(negative_prompt) != len(prompts):
      raise UserError(
        f'negative_prompt has {len(negative_prompt)} entries for '
        f'{len(prompts)} prompts.',
        key='negative_prompt',
      )
    alike = len(set(negative_prompt)) == 1
    return list(negative_prompt)[: 1 if alike else None]

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
    convention: Convention = DIFFUSERS,
    on_step: Callable[[int], None] | None = None,
    rng: Keys | None = None,
  ) -> Float[Array, 'b *p c']:
    """Latents at t = 0; text is (embeddings, mask), one for each image.

    `rng`, one key for each image, is used by samplers that draw noise.
    """
    name = sampler or self.sampler
    grid = time_grid(name, steps, flow_shift or self.flow_shift, convention)
    if convention.prompt_mask and negative is not None:
      negative = negative[0], text[1]
    if not isinstance(guidance, Guidance):
      guidance = Guidance(float(guidance))
    run = (
      denoising.denoise
      if on_step is None
      else functools.partial(denoising.denoise_step_by_step, on_step)
    )
    with self._on_mesh():
      return run(
        self.transformer.module,
        self.transformer.variables,
        self._split(noise),
        jax.tree.map(self._split, text),
        negative,
        grid,
        sampler=name,
        guidance=guidance,
        rng=None if rng is None else self._split(rng),
      )

  def decode(
    self,
    latents: Float[Array, 'b y x c'],
    size: tuple[int, int] | None = None,
    parts: Strips | Tiles | None = None,
  ) -> Float[Array, 'b y2 x2 3']:
    """Images in [0, 1] of the transformer's latents, scaled to cover `size`."""
    with self._on_mesh():
      return decoding.decode(
        self.autoencoder.module,
        self.autoencoder.variables,
        self._split(latents),
        size,
        parts,
      )

  def _output(self, latents, output_type, size, parts):
    if output_type == 'latent':
      return latents
    images = self.decode(latents, size, parts)
    return decoding.to_uint8(images) if output_type == 'uint8' else images

  def _on_mesh(self):
    """Context in which the models shard rows and examples over the mesh."""
    return (
      contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)
    )

  def _split(self, x):
    """Shards the batch over the mesh, if there is one and it divides."""
    if self.mesh is None:
      return jnp.asarray(x)
    spec = batch_spec(self.mesh)
    ways = math.prod(self.mesh.shape.get(a, 1) for a in BATCH_AXES)
    spec = spec if x.shape[0] % ways == 0 else jax.P()
    return jax.device_put(x, NamedSharding(self.mesh, spec))
