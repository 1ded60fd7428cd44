"""Parity of adapters with diffusers and peft: files, outputs and gradients.

Files of both sides are read by the other. A row of a layer adapts it alone, so
that a wrong name or transpose fails that row.
"""

import contextlib
import functools
import pathlib
import tempfile
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import peft
import safetensors.torch
import torch

from sana_jax.models import lora
from sana_jax.models.lora import Lora
from sana_jax.tools.parity import pipelines, references, sana
from sana_jax.tools.parity.ledger import Case, MODULE, PIPELINE, relative_error
from sana_jax.tools.parity.lora_rows import (
  Adapter,
  ALL,
  ATTENTION,
  BLOCKS,
  DORA,
  LAYERS,
  Row,
  ROWS,
)
from sana_jax.tools.parity.sana import Inputs, MASKS, TINY
from sana_jax.tree import unflatten
from sana_jax.weights.lora import combining, lows, names, reading, writing
from sana_jax.weights.lora.combining import Weighted


def cases() -> list[Case]:
  """Cases of single layers, of adapters, of our files, gradients, pipelines."""
  case = lambda what, measure, bound=MODULE, against='diffusers and peft': Case(
    'lora', what, 'tiny', 'float32', bound, measure, against=against
  )
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
        functools.partial(_gradients, use_dora),
        against='peft',
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


def _model(row: Row, seed):
  """diffusers' model with random adapters, and its inputs."""
  config = {**TINY, **row.model}
  theirs = sana.make(config, seed)
  for i, adapter in enumerate(row.adapters):
    _add(theirs, adapter, f'a{i}')
  return config, theirs, Inputs.draw(seed, config, MASKS['partial'])


def _add(model, adapter, name):
  settings = dict(r=2, lora_alpha=2, init_lora_weights=False)
  with warnings.catch_warnings():  # About a second one, which is meant.
    warnings.filterwarnings('ignore', 'Already found a `peft_config`')
    model.add_adapter(peft.LoraConfig(**settings | adapter.config), name)
  with torch.no_grad():
    for key, p in model.named_parameters():
      if f'.{name}.' not in key:
        continue
      if 'magnitude' in key:
        p.mul_(torch.empty_like(p).uniform_(0.7, 1.4))
      elif 'lora_' in key:
        # Larger updates amplify rounding.
        p.normal_(std=0.5 * p[0].numel() ** -0.5)


def _converted(config, theirs):
  """sana_jax's model with the base weights of a reference with adapters."""
  tensors = {
    key.replace('.base_layer.', '.'): x
    for key, x in references.weights(theirs).items()
    if 'lora_' not in key
  }
  return sana.converted(config, tensors, jnp.float32)


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
  config, theirs, inputs = _model(row, seed)
  module, params = _converted(config, theirs)
  loaded = [
    Weighted(_updates(theirs, module, f'a{i}'), adapter.weight)
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


def _updates(theirs, module, name='a0'):
  """One adapter, from a file that diffusers writes."""
  with tempfile.TemporaryDirectory() as folder:
    theirs.save_lora_adapter(folder, adapter_name=name)
    return reading.read(pathlib.Path(folder) / writing.FILE, module)


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
  config, theirs, inputs = _model(row, seed)
  module, params = _converted(config, theirs)
  updates = _updates(theirs, module)
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
  config, theirs, inputs = _model(Row('', []), seed)
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


def _gradients(use_dora, seed):
  """Error of the gradients of the factors, the least of three draws.

  A ReLU next to its kink moves a gradient by 1e-4: in one draw, not in all.
  """
  return min(_gradients_of(use_dora, seed + i) for i in range(3))


def _gradients_of(use_dora, seed):
  """Largest error of the gradient of all A, B or magnitudes.

  The loss is a random linear function of the output.
  """
  row = Row('', [Adapter(ALL | dict(use_dora=use_dora, lora_alpha=3))])
  config, theirs, inputs = _model(row, seed)
  module, params = _converted(config, theirs)
  found, factors = _factors(module, _updates(theirs, module))
  rng = np.random.default_rng(seed)
  with torch.no_grad():
    weights = rng.normal(size=inputs.run(theirs).shape).astype(np.float32)

  @jax.jit
  def loss(factors):
    adapters = lora.collection(found, factors, params)
    variables = {'params': params, 'adapters': adapters}
    return jnp.sum(weights * module.apply(variables, *inputs))

  got = jax.grad(loss)(factors)
  want = _their_gradients(theirs, inputs, weights)
  updates = lows.of_factors(
    module, Lora(found.ranks, dict.fromkeys(found.ranks, 1.0), use_dora), got
  )
  kinds = {'lora_A': 'down', 'lora_B': 'up'}
  if use_dora:
    kinds['lora_magnitude_vector'] = 'magnitude'
  joined = lambda arrays: np.concatenate([np.ravel(x) for x in arrays])
  return max(
    relative_error(
      joined(getattr(low, ours) for low in updates.values()),
      joined(want[f'{key}.{name}'] for key in updates),
    )
    for name, ours in kinds.items()
  )


def _factors(module, updates):
  """The factors and settings of a run, from equal ranks in every stack."""
  ranks, scales, flat = {}, {}, {}
  for path, layer in names.layers(module).items():
    each = [
      updates[key]
      for i in range(layer.depth or 1)
      if (key := layer.key.format(i=i)) in updates
    ]
    if not each:
      continue
    join = np.stack if layer.depth else (lambda xs: xs[0])
    ranks[path], scales[path] = each[0].rank, each[0].scale
    up = lows.up_transform(layer)
    flat[f'{path}/down'] = join([layer.transform.load(x.down) for x in each])
    flat[f'{path}/up'] = join([up.load(x.up) for x in each])
    if each[0].magnitude is not None:
      flat[f'{path}/magnitude'] = join([x.magnitude for x in each])
  dora = any(name.endswith('magnitude') for name in flat)
  return Lora(ranks, scales, dora), unflatten(flat)


def _their_gradients(theirs, inputs, weights):
  """Gradients of the factors by their names without the adapter's."""
  for key, p in theirs.named_parameters():
    p.requires_grad_('lora_' in key)
  image = lambda x: torch.from_numpy(references.channels_first(x).copy())
  out = theirs(
    image(inputs.latents),
    torch.from_numpy(inputs.text),
    torch.from_numpy(inputs.timesteps),
    encoder_attention_mask=torch.from_numpy(np.float32(inputs.mask)),
    return_dict=False,
  )[0]
  (out * image(weights)).sum().backward()
  return {
    key.removesuffix('.weight').removesuffix('.a0'): p.grad.numpy()
    for key, p in theirs.named_parameters()
    if 'lora_' in key
  }


def _pipeline(config, seed):
  """Error of the latents of both pipelines with our file, read unwarned."""
  theirs = pipelines.make(seed)
  ours = pipelines.saved(theirs)
  latents = pipelines.noise(theirs, (32, 64), 1)
  _add(theirs.transformer, Adapter(config), 'a0')
  updates = _updates(theirs.transformer, ours.transformer.module)
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
