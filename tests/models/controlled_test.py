"""A Sana with ControlNets, as the one network that a Denoiser calls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.models.controlled import controlled, Hint
from sana_jax.models.controlnet import (
  AFTER,
  controlnet_of,
  EMBEDDINGS,
  first_block,
  first_params,
  SanaControlNet,
  with_embeddings,
)
from sana_jax.models.sana import Sana

BASE = Sana(
  width=16,
  depth=4,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  out_channels=3,
  caption_channels=6,
)
TIMES = jnp.float32([0.9, 0.2])


def normal(*shape):
  return jnp.asarray(np.random.default_rng().normal(size=shape), jnp.float32)


def inputs():
  mask = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
  return normal(2, 4, 6, 3), normal(2, 5, 6), mask, normal(2, 4, 6, 3)


@functools.cache
def params_of(module):
  """Values that matter everywhere: no zero layers."""
  x, text, _, _ = inputs()
  more = (x,) if isinstance(module, SanaControlNet) else ()
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), x, TIMES, text, *more
  )['params']
  return jax.tree.map(lambda s: 0.3 * normal(*s.shape), shapes)


def joined(*nets, base=BASE):
  return controlled(
    base,
    {'params': params_of(base)},
    [(net, {'params': params_of(net)}) for net in nets],
  )


@functools.partial(jax.jit, static_argnums=0)
def velocity(module, params, x, text, mask, control=None):
  """As in sampling: the text is projected first."""
  denoiser = Denoiser(module)
  condition = denoiser.condition(params, text, mask)
  return denoiser(
    params, x, TIMES, condition._replace(control=control)
  ).velocity()


def hint(control, scale=1.0, first=None, last=None):
  full = lambda value: None if value is None else jnp.full(2, value)
  return Hint(control, full(scale), full(first), full(last))


def error(got, want):
  return jnp.linalg.norm(got - want) / jnp.linalg.norm(want)


@pytest.mark.long
@pytest.mark.parametrize('wiring', AFTER)
def test_a_new_net_equals_its_base_to_the_bit(wiring):
  x, text, mask, control = inputs()
  net = controlnet_of(BASE, 2, wiring)
  base = params_of(BASE)
  new = with_embeddings(first_params(base, 2), base)
  module, variables = controlled(
    BASE, {'params': base}, [(net, {'params': new})]
  )
  np.testing.assert_array_equal(
    velocity(module, variables['params'], x, text, mask, (hint(control),)),
    velocity(BASE, base, x, text, mask),
  )


@pytest.mark.long
def test_a_new_net_has_the_parameters_of_its_module():
  net, base = controlnet_of(BASE, 3, 'diffusers'), params_of(BASE)
  got = with_embeddings(first_params(base, 3), base)
  want = params_of(net)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  assert jax.tree.map(np.shape, got) == jax.tree.map(np.shape, want)
  assert all(got[name] is base[name] for name in EMBEDDINGS)
  kernel = lambda params: params['blocks']['mix_ffn']['inverted']['kernel']
  np.testing.assert_array_equal(kernel(got), kernel(base)[:3])
  assert not np.any(got['blocks']['output']['kernel'])
  assert not np.any(got['input']['kernel'])


@pytest.mark.long
def test_the_wirings_are_those_of_both_references():
  x, text, mask, control = inputs()
  args = x, 1000 * TIMES, text
  apply = lambda module, *args, **how: module.apply(
    {'params': params_of(module)}, *args, **how
  )
  found = {}
  for wiring, first in AFTER.items():
    net = controlnet_of(BASE, 2, wiring)
    start = None
    if wiring == 'official':
      start = first_block(BASE, {'params': params_of(BASE)}, *args, mask)
    outputs = apply(net, *args, control, mask, start=start)
    base = BASE.clone(control_after=first)
    want = base.apply({'params': params_of(BASE)}, *args, mask, control=outputs)
    module, variables = joined(net)
    found[wiring] = velocity(
      module, variables['params'], x, text, mask, (hint(control),)
    )
    assert error(found[wiring], want) <= 1e-5
  assert error(*found.values()) > 1e-2


@pytest.mark.long
def test_the_outputs_of_several_nets_are_added_with_their_scales():
  x, text, mask, control = inputs()
  nets = controlnet_of(BASE, 2, 'diffusers'), controlnet_of(BASE, 3, 'official')
  module, variables = joined(*nets)
  run = lambda *scales: velocity(
    module,
    variables['params'],
    x,
    text,
    mask,
    tuple(hint(control, scale) for scale in scales),
  )
  for i, net in enumerate(nets):
    one, of_one = joined(net)
    alone = velocity(
      one, of_one['params'], x, text, mask, (hint(control, 0.7),)
    )
    assert error(run(*(0.7 * (i == j) for j in range(2))), alone) <= 1e-5
  assert error(run(0.7, 0.7), run(0.7, 0.0)) > 1e-2
  np.testing.assert_array_equal(
    run(0.0, 0.0), velocity(BASE, params_of(BASE), x, text, mask)
  )


@pytest.mark.long
def test_a_hint_has_no_effect_outside_of_its_times():
  x, text, mask, control = inputs()
  module, variables = joined(controlnet_of(BASE, 2, 'diffusers'))
  run = lambda *range_: velocity(
    module, variables['params'], x, text, mask, (hint(control, 1.0, *range_),)
  )
  base = velocity(BASE, params_of(BASE), x, text, mask)
  # The two examples are at 900 and 200.
  early, always = run(1000.0, 500.0), run()
  np.testing.assert_array_equal(early[0], always[0])
  np.testing.assert_array_equal(early[1], base[1])
  assert error(always[1], base[1]) > 1e-2
  np.testing.assert_array_equal(run(900.0, 200.0), always)


@pytest.mark.long
def test_nets_read_the_flows_timesteps_whatever_the_scale_of_the_bases():
  x, text, mask, control = inputs()
  net = controlnet_of(BASE, 2, 'diffusers')
  dense = BASE.clone(timestep_scale=0.001)
  module, variables = joined(net, base=dense)
  got = velocity(module, variables['params'], x, text, mask, (hint(control),))
  outputs = net.apply(
    {'params': params_of(net)}, x, 1000 * TIMES, text, control, mask
  )
  want = dense.apply(
    {'params': params_of(dense)}, x, TIMES, text, mask, control=outputs
  )
  assert error(got, want) <= 1e-5


@pytest.mark.long
def test_projecting_the_text_first_changes_nothing():
  x, text, mask, control = inputs()
  module, variables = joined(controlnet_of(BASE, 2, 'official'))
  control = (hint(control),)
  at_once = Denoiser(module)(
    variables['params'], x, TIMES, Condition(text, mask, control=control)
  ).velocity()
  first = velocity(module, variables['params'], x, text, mask, control)
  assert error(first, at_once) <= 1e-5
