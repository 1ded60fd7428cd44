"""Parity of the factors' gradients with peft's, in float64 on both sides.

In float32, a ReLU next to its kink moves a gradient by 1e-4 in some draws. The
reference is in float64 by doubles.py; sana_jax's modules fix float32 for norms,
modulations, the softmax and the linear attention, which is float64 here.
"""

import contextlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

from sana_jax.models import lora
from sana_jax.models.lora import Lora
from sana_jax.tools.parity import doubles, lora_models, references
from sana_jax.tools.parity.ledger import relative_error
from sana_jax.tools.parity.lora_rows import Adapter, ALL, Row
from sana_jax.tree import unflatten
from sana_jax.weights.lora import lows, names

# Times up to 5: both sides take float32 frequencies, whose last digits differ.
_MOST = 5.0


def error(use_dora: bool, seed: int) -> float:
  """Largest error of the gradient of all A, B or magnitudes.

  The loss is a random linear function of the output.
  """
  row = Row('', [Adapter(ALL | dict(use_dora=use_dora, lora_alpha=3))])
  config, theirs, inputs = lora_models.model(row, seed)
  inputs = inputs._replace(timesteps=inputs.timesteps * (_MOST / 1000))
  module, params = lora_models.converted(config, theirs)
  found, factors = _factors(module, lora_models.updates(theirs, module))
  shape = (*inputs.latents.shape[:-1], config['out_channels'])
  weights = np.random.default_rng(seed).normal(size=shape)
  want = _their_gradients(doubles.doubled(theirs), inputs, weights)
  got = _gradients(module, params, (found, factors), inputs, weights)
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


def _gradients(module, params, adapted, inputs, weights):
  """Gradients of the factors in float64."""
  found, factors = adapted
  with _float64():
    params, factors, inputs = map(_wide, (params, factors, tuple(inputs)))
    module = module.clone(dtype=jnp.float64)

    @jax.jit
    def loss(factors):
      adapters = lora.collection(found, factors, params)
      variables = {'params': params, 'adapters': adapters}
      return jnp.sum(weights * module.apply(variables, *inputs))

    return jax.device_get(jax.grad(loss)(factors))


@contextlib.contextmanager
def _float64():
  """Makes JAX compute in float64, also where modules fix float32."""
  with (
    jax.enable_x64(True),
    mock.patch.object(jnp, 'float32', jnp.float64),
  ):
    yield


def _wide(tree):
  """The tree with floating arrays in float64."""

  def one(x):
    x = np.asarray(x)
    return jnp.asarray(x, jnp.float64 if x.dtype.kind == 'f' else x.dtype)

  return jax.tree.map(one, tree)


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
  tensor = lambda x: torch.from_numpy(np.array(x, np.float64))
  image = lambda x: tensor(references.channels_first(x))
  out, _ = doubles.call(
    theirs,
    image(inputs.latents),
    tensor(inputs.timesteps),
    tensor(inputs.text),
    tensor(inputs.mask),
  )
  (out * image(weights)).sum().backward()
  return {
    key.removesuffix('.weight').removesuffix('.a0'): p.grad.numpy()
    for key, p in theirs.named_parameters()
    if 'lora_' in key
  }
