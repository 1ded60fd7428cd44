"""The models of a pipeline: loading, replacing, adapters and sizes."""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sana_jax.inference import (
  adapters,
  arguments,
  diffusers_names,
  few_steps,
  loading,
  sizes,
)
from sana_jax.sharding.mesh import split_batch
from sana_jax.text.vocabulary import Vocabulary
from sana_jax.typing import DType
from sana_jax.weights.folder import Model


@dataclasses.dataclass(frozen=True, repr=False)
class Models:
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
  loras: Mapping[str, adapters.Weighted] = dataclasses.field(
    default_factory=dict
  )
  controlnets: tuple[Model, ...] = ()
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
  ) -> 'Models':
    """Loads a folder in the diffusers layout, a hub id or 'shapes'.

    The folder of a SanaControlNetPipeline has a ControlNet, too. Weights and
    arithmetic are in `dtype` (diffusers' name is torch_dtype), by
    default float32 on a CPU and bfloat16 elsewhere; norms, softmax and the
    sums of the linear attention are always in float32. Of the autoencoder,
    only the decoder is loaded, and with `encoder` also the encoder, for images
    given to `draw`.
    """
    dtype = arguments.dtype_of(dtype or torch_dtype)
    return cls(**loading.parts(name, dtype, mesh, encoder))

  def with_controlnet(
    self, name: str | os.PathLike, wiring: str | None = None
  ) -> 'Models':
    """A copy with one more ControlNet; see `loading.controlnet`.

    It needs the autoencoder's encoder: from_pretrained(..., encoder=True).
    """
    base = self.transformer.module
    net = loading.controlnet(name, base, base.dtype, self.mesh, wiring)
    return self.replace(controlnets=(*self.controlnets, net))

  def default(self, name: str) -> Any:
    """The model's recommended `steps` or `guidance_scale`, else ours."""
    sprint = few_steps.is_sprint(self.transformer.module)
    return arguments.default(name, self.recommended, sprint)

  def __repr__(self) -> str:
    return f'{type(self).__name__}({self.size_px} px, sampler={self.sampler!r})'

  def __getattr__(self, name: str):
    raise AttributeError(diffusers_names.missing_attribute(name))

  def replace(self, **changes) -> 'Models':
    """A copy of the pipeline with other parts."""
    if {'text_encoder', 'tokenizer'} & set(changes):
      changes = {'cache': {}, **changes}
    return dataclasses.replace(self, **changes)

  def load_lora(
    self,
    path: str | os.PathLike,
    weight: adapters.Weight = 1.0,
    name: str | None = None,
  ) -> 'Models':
    """A copy of the pipeline that uses an adapter file, beside others.

    Raises UserError for a file that does not fit, or cannot be used entirely.

    Args:
      path: a file, in any spelling of weights/lora/spelling.py, or its folder.
      weight: factor of what the adapter adds; one, or one for each module, as
        in {'transformer_blocks.0': 0.5}.
      name: for `set_adapters`; by default that of the file.
    """
    return adapters.load(self, path, weight, name)

  def set_adapters(
    self,
    names: str | Sequence[str],
    weights: adapters.Weight | Sequence[adapters.Weight] | None = None,
  ) -> 'Models':
    """A copy that uses these adapters alone, with these weights."""
    return adapters.weigh(self, names, weights)

  def fuse_lora(self) -> 'Models':
    """A copy with its adapters merged into the weights."""
    return adapters.fuse(self)

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
    return sizes.of_ratio(self, ratio)

  def trained_size(
    self, height: int, width: int, use_resolution_binning: bool = True
  ) -> tuple[int, int]:
    """The size at which a picture of height x width pixels is drawn.

    Raises UserError if the model has no table of trained sizes and the size is
    not a multiple of the autoencoder's compression.
    """
    return sizes.trained(self, height, width, use_resolution_binning)

  def on_mesh(self):
    """Context in which the models shard rows and examples over the mesh."""
    return (
      contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)
    )

  def split(self, x):
    """Shards the batch over the mesh, if there is one and it divides."""
    return jnp.asarray(x) if self.mesh is None else split_batch(self.mesh, x)
