"""Pipeline stages compiled for unattached devices.

The compiler reports whether a stage fits and its memory, but not its time.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from sana_jax import kernels
from sana_jax.analysis import collectives, hlo, topologies, work
from sana_jax.diffusion.guidance import Guidance
from sana_jax.inference import decoding, denoising, strip_decoding
from sana_jax.inference.schedulers import time_grid
from sana_jax.sharding import rules
from sana_jax.sharding.mesh import batch_spec
from sana_jax.text import encode
from sana_jax.tools.bench import models
from sana_jax.tools.bench.request import PARTS, Request
from sana_jax.weights import kinds

_INSTRUCTION = 210  # Tokens of the published instruction.


class Compiled(NamedTuple):
  """The compiler's figures; bytes are per device."""

  stage: str
  weights: int
  temporaries: int
  outputs: int
  collectives: dict[str, int]
  kernel_names: dict[str, int]
  seconds: float


def compile_stage(
  stage: str,
  request: Request,
  mesh: Mesh,
  platform: str,
  strips: strip_decoding.Strips | None = None,
) -> Compiled:
  """Compiles one of request.STAGES; raises UserError if it does not fit."""
  part = PARTS[stage]
  start = time.perf_counter()
  with kernels.platform(platform), kernels.prefer(**request.kernels):
    module, variables = _model(part, request, mesh)
    program = topologies.compile_for(
      platform,
      mesh,
      lambda: _LOWERED[stage](module, variables, request, mesh, strips),
      'choose a smaller batch, more devices or --decode strips',
    )
  seconds = time.perf_counter() - start
  memory, text = program.memory_analysis(), hlo.parse(program.as_text())
  return Compiled(
    stage,
    memory.argument_size_in_bytes,
    memory.temp_size_in_bytes,
    memory.output_size_in_bytes,
    collectives.count(text),
    work.kernel_names(text),
    seconds,
  )


def _model(part, request, mesh):
  """The module, and shapes of its variables with their shardings."""
  module, shapes = models.described(part, request.config(part), request.dtype)
  table = [(f'[^/]*/{p}', spec) for p, spec in kinds.PARTS[part].sharding]
  placed = lambda leaf, place: jax.ShapeDtypeStruct(
    leaf.shape, module.dtype, sharding=place
  )
  return module, jax.tree.map(
    placed, shapes, rules.shardings(shapes, table, mesh)
  )


def _text(module, variables, request, mesh, strips):
  del strips
  b, length = request.batch, encode.LENGTH
  first, past = jax.eval_shape(
    lambda p, ids: module.apply({'params': p}, ids, method='read'),
    variables['params'],
    _like(mesh, (1, _INSTRUCTION), jnp.int32, False),
  )
  return encode._embed_with_prefix.lower(
    module,
    variables['params'],
    first,
    past,
    _like(mesh, (b, length - 1), jnp.int32),
    _like(mesh, (b, length - 1), jnp.bool_),
  )


def _denoise(module, variables, request, mesh, strips):
  del strips
  b, width = request.batch, module.caption_channels
  text = lambda n, split: (
    _like(mesh, (n, encode.LENGTH, width), module.dtype, split),
    _like(mesh, (n, encode.LENGTH), jnp.bool_, split),
  )
  return denoising.denoise.lower(
    module,
    variables,
    _like(mesh, request.latent_shape, jnp.float32),
    text(b, True),
    text(1, False),
    time_grid('dpm++2m', request.steps, 3.0),
    sampler='dpm++2m',
    guidance=Guidance(request.guidance_scale),
  )


def _decode(module, variables, request, mesh, strips):
  latents = _like(mesh, request.latent_shape, module.dtype)
  if strips is not None:
    return strip_decoding.decode.lower(module, variables, latents, strips)
  return decoding._decode.lower(
    module, variables, latents, (request.height, request.width)
  )


_LOWERED = {'text': _text, 'denoise': _denoise, 'decode': _decode}


def _like(mesh, shape, dtype, split=True):
  """Shape of an argument, sharded over data and fsdp if divisible."""
  spec = batch_spec(mesh) if split else jax.P()
  ways = [mesh.shape.get(axis, 1) for axis in ('data', 'fsdp')]
  if split and shape[0] % max(ways):
    spec = jax.P()
  return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
