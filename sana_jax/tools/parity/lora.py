"""Parity of adapters with diffusers and peft: files, outputs and gradients.

Files of both sides are read by the other. A row of a layer adapts it alone, so
that a wrong name or transpose fails that row.
"""

import contextlib
import functools
import pathlib
import tempfile
import warnings

import jax.numpy as jnp
import numpy as np
import peft
import safetensors.torch
import torch

from sana_jax.models import lora
from sana_jax.tools.parity import (
  lora_gradients,
  lora_models,
  pipelines,
  references,
  sana,
)
from sana_jax.tools.parity.ledger import Case, MODULE, PIPELINE, relative_error
from sana_jax.tools.parity.lora_rows import (
  Adapter,
  ATTENTION,
  BLOCKS,
  DORA,
  LAYERS,
  Row,
  ROWS,
)
from sana_jax.weights.lora import combining, reading, writing
from sana_jax.weights.lora.combining import Weighted

_BOTH = 'diffusers and peft'


def cases() -> list[Case]:
  """Cases of single layers, of adapters, of our files, gradients, pipelines."""

  def case(what, measure, bound=MODULE, dtype='float32', against=_BOTH):
    return Case('lora', what, 'tiny', dtype, bound, measure, against=against)

  return [
    *(
      case(name, functools.partial(_read, Row('', [_only(name)])))
      for name in LAYERS
    ),
    *(case(row.what, functools.partial(_read, row)) for row in ROWS),
    case('LoKr', _lokr),
    *(
      case(f'our file, {row.what}', functools.partial(_written, row))
      for row in ROWS[:8]
    ),
    *(
      case(f'merged weights, {row.what}', functools.partial(_merged, row))
      for row in (ROWS[0], ROWS[6], ROWS[10])
    ),
    *(
      case(
        f'gradients of the factors, {kind}',
        functools.partial(lora_gradients.error, use_dora),
        against='peft',
        dtype='float64',
      )
      for kind, use_dora in (('LoRA', False), ('DoRA', True))
    ),
    *(
      case(
        f'pipeline, 2 steps, {kind}',
        functools.partial(_pipeline, config),
        PIPELINE,
      )
      for kind, config in (('LoRA', BLOCKS), ('DoRA', DORA))
    ),
  ]


def _only(name):
  return Adapter(dict(target_modules=[name], lora_alpha=3))


def _weigh(theirs, row):
  chosen = [f'a{i}' for i in range(len(row.adapters))]
  theirs.set_adapters(chosen, [_weight(a.weight, theirs) for a in row.adapters])


def _weight(weight, theirs):
  """Weights of all blocks, of which diffusers needs the numbers."""
  if not isinstance(weight, dict):
    return weight
  blocks = len(theirs.transformer_blocks)
  return {f'transformer_blocks.{i}': 1.0 for i in range(blocks)} | weight


def _adapted(row: Row, seed):
  """Our module, its weights, adapters from diffusers' files, inputs, output."""
  config, theirs, inputs = lora_models.model(row, seed)
  module, params = lora_models.converted(config, theirs)
  loaded = [
    Weighted(lora_models.updates(theirs, module, f'a{i}'), adapter.weight)
    for i, adapter in enumerate(row.adapters)
  ]
  _weigh(theirs, row)
  with torch.no_grad():
    want = inputs.run(theirs)
  return (
    module,
    params,
    combining.collection(module, params, loaded),
    inputs,
    want,
  )


def _read(row: Row, seed):
  """Error of our output with files that diffusers wrote."""
  return _changed(*_adapted(row, seed))


def _changed(module, params, adapters, inputs, want):
  """Error of the output; ValueError if the adapters make no difference."""
  variables = {'params': params, 'adapters': adapters}
  got = references.apply(module, variables, *inputs)
  plain = references.apply(module, {'params': params}, *inputs)
  if relative_error(plain, want) < 1e-3:
    raise ValueError('the adapters make no difference')
  return relative_error(got, want)


def _written(row: Row, seed):
  """Error of diffusers' output with our file, which it reads unwarned."""
  config, theirs, inputs = lora_models.model(row, seed)
  module, params = lora_models.converted(config, theirs)
  updates = lora_models.updates(theirs, module)
  plain = sana.make(config, seed)
  with _our_file(updates) as file, warnings.catch_warnings():
    warnings.simplefilter('error')
    plain.load_lora_adapter(file.parent, weight_name=file.name)
  with torch.no_grad():
    want = inputs.run(plain)
  adapters = combining.collection(module, params, [Weighted(updates)])
  return _changed(module, params, adapters, inputs, want)


@contextlib.contextmanager
def _our_file(updates):
  """Path of a file that we write, in a folder of its own."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / writing.FILE
    writing.write_file(path, updates)
    yield path


def _merged(row: Row, seed):
  """Error of our merged weights against diffusers with adapters."""
  module, params, adapters, inputs, want = _adapted(row, seed)
  merged = lora.merged(params, adapters)
  got = references.apply(module, {'params': merged}, *inputs)
  return relative_error(got, want)


def _lokr(seed):
  """Error with a file of peft's LoKr."""
  config, theirs, inputs = lora_models.model(Row('', []), seed)
  module, params = sana.converted(
    config, references.weights(theirs), jnp.float32
  )
  settings = peft.LoKrConfig(
    r=2, alpha=2, target_modules=list(ATTENTION), init_weights=False
  )
  model = peft.inject_adapter_in_model(settings, theirs)
  with torch.no_grad():
    for key, p in model.named_parameters():
      if 'lokr_' in key:
        p.normal_(std=p[0].numel() ** -0.5)
    want = inputs.run(model)
  state = peft.get_peft_model_state_dict(model)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'lokr.safetensors'
    safetensors.torch.save_file(
      {k: x.contiguous() for k, x in state.items()}, path
    )
    updates = reading.read(path, module)
  adapters = combining.collection(module, params, [Weighted(updates)])
  return _changed(module, params, adapters, inputs, want)


def _pipeline(config, seed):
  """Error of the latents of both pipelines with our file, read unwarned."""
  theirs = pipelines.make(seed)
  ours = pipelines.saved(theirs)
  latents = pipelines.noise(theirs, (32, 64), 1)
  lora_models.add(theirs.transformer, Adapter(config), 'a0')
  updates = lora_models.updates(theirs.transformer, ours.transformer.module)
  theirs.transformer.delete_adapters('a0')
  with _our_file(updates) as file:
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      theirs.load_lora_weights(file.parent)
    ours = ours.load_lora(file)
  how = dict(negative_prompt=pipelines.NEGATIVE, height=32, width=64)
  want, _ = pipelines.draw(
    theirs,
    pipelines.PROMPTS[:1],
    latents,
    num_inference_steps=2,
    use_resolution_binning=False,
    **how,
  )
  got = ours.draw(
    pipelines.PROMPTS[0],
    latents=latents.permute(0, 2, 3, 1).numpy(),
    steps=2,
    use_resolution_binning=False,
    output_type='latent',
    **how,
  )
  return relative_error(np.float32(got), want)
