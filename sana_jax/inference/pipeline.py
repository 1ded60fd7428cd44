"""Pipeline from prompts to pictures, with three pure, jitted stages.

  prompts --encode--> text --denoise--> latents --decode--> images

The stages follow diffusers' SanaPipeline: the same latents, the same picture.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import functools
import inspect
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np
from PIL import Image

from sana_jax.diffusion.guidance import Guidance
from sana_jax.inference import (
  adapters,
  arguments,
  bins,
  decoding,
  denoising,
  diffusers_names,
  few_steps,
  input_image,
  model_index,
  randomness,
  texts,
)
from sana_jax.inference.conventions import Convention, DIFFUSERS
from sana_jax.inference.schedulers import read_scheduler, time_grid
from sana_jax.inference.strip_decoding import Strips
from sana_jax.inference.tiling import Tiles
from sana_jax.sharding.mesh import BATCH_AXES, batch_spec, to_host
from sana_jax.text import tokenizer as tokenizers
from sana_jax.text.prompts import INSTRUCTION
from sana_jax.text.vocabulary import Vocabulary
from sana_jax.typing import Array, DType, Float, Int, Keys
from sana_jax.weights import folder as folders
from sana_jax.weights import hub
from sana_jax.weights.folder import Model


class Output(NamedTuple):
  """Images of a call, in order: a list of PIL images, or an array."""

  images: list[Image.Image] | np.ndarray


@dataclasses.dataclass(frozen=True, repr=False)
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
  vocabulary: Vocabulary = Vocabulary()
  mesh: Mesh | None = None
  loras: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  # Prefix KV caches of instructions, and embeddings of negative prompts.
  cache: dict = dataclasses.field(default_factory=dict, compare=False)

  @classmethod
  def from_pretrained(
    cls,
    name: str | os.PathLike,
    dtype: DType | None = None,
    mesh: Mesh | None = None,
    *,
    encoder: bool = False,
    torch_dtype: Any = None,
  ) -> 'Pipeline':
    """Loads a folder in the diffusers layout, a hub id or 'shapes'.

    Weights and arithmetic are in `dtype` (diffusers' name is torch_dtype), by
    default float32 on a CPU and bfloat16 elsewhere; norms, softmax and the
    sums of the linear attention are always in float32. Of the autoencoder,
    only the decoder is loaded, and with `encoder` also the encoder, for images
    given to `draw`.
    """
    folder, dtype = (
      hub.find_pipeline(name),
      arguments.dtype_of(dtype or torch_dtype),
    )
    recommended = model_index.read(folder)
    vocabulary = model_index.vocabulary(folder)
    scheduler = read_scheduler(folder)
    tokenizer = tokenizers.load(folder / 'tokenizer')
    model_index.check_parts(folder, tokenizer)
    load = functools.partial(folders.load, folder, dtype=dtype, mesh=mesh)
    transformer = load('transformer')
    if few_steps.is_sprint(transformer.module):
      transformer, scheduler = few_steps.sprint(transformer, scheduler)
    return cls(
      transformer,
      load('vae', only='' if encoder else 'decoder'),
      load('text_encoder'),
      tokenizer,
      *scheduler,
      recommended=recommended,
      vocabulary=vocabulary,
      mesh=mesh,
    )

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
    strength: float | None = None,
    convention: Convention = DIFFUSERS,
    parts: Strips | Tiles | str | None = None,
    on_step: Callable[[int], None] | None = None,
    on_estimate: Callable[[int, Callable[[], Array]], None] | None = None,
  ) -> Array:
    """`num_images` pictures of each prompt, in order: [n, height, width, 3].

    They may still be in flight; a call of the pipeline waits for them.
    Raises UserError for an invalid value, by its name.

    Args:
      height, width: in pixels; the model's own size by default.
      steps: model evaluations, each doubled by guidance; by default the
        model's recommendation, else 20, and 2 for a Sprint.
      guidance_scale: scale of classifier-free guidance; 1 or less disables it;
        a Sprint embeds it; by default the model's recommendation, else 4.5.
      seed: one, or one for each prompt. Picture k of a prompt depends on the
        prompt, its seed and k, not on the others in the call.
      numbers: k, by default from 0; one for each prompt if num_images is 1.
      latents: noise, [n, height/f, width/f, channels].
      sampler, flow_shift: the checkpoint's by default.
      times: of the sampler scm, the angles of its steps, such as [1.5708, 1.3].
      image: starting point for scm, a path, a PIL image or an array.
      strength: part of the way from image to noise where scm starts (.6).
      output_type: 'uint8', 'float' (in [0, 1]) or 'latent' (like `latents`).
      use_resolution_binning: make the picture at the nearest trained aspect
        ratio, then scale and crop (512 px to 4096 px models).
      negative_prompt: text to guide away from; one, or one for each prompt.
      instruction: prefix of each prompt, not of the negative one; a text, its
        lines, or None.
      guidance: its other options, such as {'pag_scale': 2.}; or a Guidance,
        which replaces `guidance_scale`.
      convention: the choices where diffusers and the official code differ.
      parts: splitting of large decodes to save memory: 'strips' (or Strips)
        gives the same picture, 'tiles' that of enable_tiling.
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

  load_lora, set_adapters, fuse_lora = adapters.METHODS

  def _draw(self, call):
    parts = arguments.parts_of(call.parts, self.autoencoder.module.spec.side)
    few_steps.check(self, call)
    shown = call.height, call.width
    size = self.trained_size(*shown, call.use_resolution_binning)
    pictures = randomness.of_pictures(
      len(call.prompts), call.seed, call.num_images, call.numbers
    )
    start = self.noise(*pictures, size, call.latents)
    if call.image is not None:
      start = input_image.mixed(self, call.image, start, size, call.times[0])
    encoded = self.encode_prompts(
      call.prompts, call.negative_prompt, call.instruction
    )
    denoised = self.denoise(
      start,
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
    )
    return self._output(denoised, call.output_type, shown, parts)

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

  def default(self, name: str) -> Any:
    """The model's recommended `steps` or `guidance_scale`, else ours."""
    sprint = few_steps.is_sprint(self.transformer.module)
    return arguments.default(name, self.recommended, sprint)

  def __repr__(self) -> str:
    return f'Pipeline({self.size_px} px, sampler={self.sampler!r})'

  def __getattr__(self, name: str):
    raise AttributeError(diffusers_names.missing_attribute(name))

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
    arguments.check_size(height, width, self.autoencoder.module.spec.side)
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
  ) -> Float[Array, 'b *p c']:
    """Latents at t = 0; text is (embeddings, mask), one for each image.

    `rng`, one key for each image, is used by samplers that draw noise.
    """
    name = sampler or self.sampler
    shift = flow_shift or self.flow_shift
    grid = time_grid(name, steps, shift, convention, times)
    if convention.prompt_mask and negative is not None:
      negative = negative[0], text[1]
    if not isinstance(guidance, Guidance):
      guidance = Guidance(float(guidance))
    run = denoising.runner(on_step, on_estimate)
    with self.on_mesh():
      return run(
        self.transformer.module,
        self.transformer.variables,
        self.split(noise),
        jax.tree.map(self.split, text),
        negative,
        grid,
        sampler=name,
        guidance=guidance,
        rng=None if rng is None else self.split(rng),
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

  def _output(self, latents, output_type, size, parts):
    if output_type == 'latent':
      return latents
    images = self.decode(latents, size, parts)
    return decoding.to_uint8(images) if output_type == 'uint8' else images

  def on_mesh(self):
    """Context in which the models shard rows and examples over the mesh."""
    return (
      contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)
    )

  def split(self, x):
    """Shards the batch over the mesh, if there is one and it divides."""
    if self.mesh is None:
      return jnp.asarray(x)
    spec = batch_spec(self.mesh)
    ways = math.prod(self.mesh.shape.get(a, 1) for a in BATCH_AXES)
    spec = spec if x.shape[0] % ways == 0 else jax.P()
    return jax.device_put(x, NamedSharding(self.mesh, spec))
