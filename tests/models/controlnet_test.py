"""The ControlNet, and the transformer that takes its outputs."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.config import SANA_SIZES
from sana_jax.models.controlnet import first_block, SanaControlNet
from sana_jax.models.sana import Sana

SHARED = dict(
  width=16, cross_heads=2, head_dim=8, in_channels=3, caption_channels=6
)
BASE = dict(SHARED, depth=4, out_channels=3)
CONTROL = dict(SHARED, depth=2)


def inputs(size=(4, 6)):
  rng = np.random.default_rng()
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  mask = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
  return (
    draw(2, *size, 3),
    jnp.float32([999, 136]),
    draw(2, 5, 6),
    mask,
    draw(2, *size, 3),
  )


@functools.cache
def random_params(module):
  """Values that matter everywhere: no zero layers, no norms of one."""
  latents, timesteps, text, _, control = inputs()
  more = (control,) if isinstance(module, SanaControlNet) else ()
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), latents, timesteps, text, *more
  )['params']
  rng = np.random.default_rng()
  return jax.tree.map(
    lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.3, s.dtype), shapes
  )


def base_and_inputs(**how):
  latents, timesteps, text, mask, control = inputs()
  base = Sana(**BASE | how)
  return (
    base,
    random_params(base),
    (latents, timesteps, text, mask),
    control,
  )


def relative_error(got, want):
  return jnp.linalg.norm(got - want) / jnp.linalg.norm(want)


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, *args, **kwargs):
  return module.apply({'params': params}, *args, **kwargs)


@functools.partial(jax.jit, static_argnums=0)
def blocks_seen(base, params, args, control):
  """x after each block, [block b n d]."""
  return jnp.stack(
    base.apply(
      {'params': params},
      *args,
      control=control,
      features=range(base.depth),
      method='evaluate',
    ).features
  )


@pytest.mark.parametrize(
  'size, count',
  [('sana_600m_1024', 168_765_696), ('sana_1600m_1024', 631_576_960)],
)
def test_the_published_sizes_have_diffusers_number_of_parameters(size, count):
  module = SanaControlNet(**SANA_SIZES[size] | dict(depth=7))
  x, t, text = jnp.zeros((1, 2, 2, 32)), jnp.zeros(1), jnp.zeros((1, 2, 2304))
  shapes = jax.eval_shape(module.init, jax.random.key(0), x, t, text, x)
  assert sum(s.size for s in jax.tree.leaves(shapes)) == count


@pytest.mark.long
def test_a_new_controlnet_changes_nothing_but_has_gradients():
  base, params, args, control = base_and_inputs()
  latents, timesteps, text, mask = args
  net = SanaControlNet(**CONTROL)
  new = jax.jit(net.init)(jax.random.key(1), latents, timesteps, text, control)[
    'params'
  ]

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def run(new):
    outputs = net.apply(
      {'params': new}, latents, timesteps, text, control, mask
    )
    out = base.apply({'params': params}, *args, control=outputs)
    return jnp.sum(out**2), (out, outputs)

  grads, (out, outputs) = run(new)
  assert outputs.shape == (2, 2, 24, 16)
  np.testing.assert_array_equal(outputs, 0)
  assert relative_error(out, apply(base, params, *args)) <= 1e-5
  assert all(
    np.abs(g).max() > 1e-3 for g in jax.tree.leaves(grads['blocks']['output'])
  )


@pytest.mark.long
@pytest.mark.parametrize('first', [0, 1])
def test_an_output_is_added_behind_its_block_and_not_before(first):
  base, params, args, _ = base_and_inputs(control_after=first)
  outputs = (
    jnp.zeros((2, 2, 24, 16))
    .at[1]
    .set(np.random.default_rng().normal(size=(2, 24, 16)))
  )
  want = blocks_seen(base, params, args, None)
  got = blocks_seen(base, params, args, outputs)
  behind = first + 1
  assert relative_error(got[:behind], want[:behind]) <= 1e-5
  assert relative_error(got[behind], want[behind] + outputs[1]) <= 1e-5
  assert np.abs(got[behind + 1] - want[behind + 1] - outputs[1]).max() > 1e-2


def test_outputs_beyond_the_last_block_are_not_used():
  base, params, args, _ = base_and_inputs()
  outputs = jnp.asarray(
    np.random.default_rng().normal(size=(7, 2, 24, 16)), jnp.float32
  )
  run = lambda outputs: apply(base, params, *args, control=outputs)
  np.testing.assert_array_equal(run(outputs), run(outputs[:3]))


def test_the_scale_multiplies_the_outputs():
  latents, timesteps, text, mask, control = inputs()
  net = SanaControlNet(**CONTROL)
  run = lambda scale: apply(
    net, random_params(net), latents, timesteps, text, control, mask, scale
  )
  assert np.abs(run(1.0)).max() > 0.1
  np.testing.assert_allclose(run(0.25), 0.25 * run(1.0), rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize('which', ['transformer', 'controlnet'])
def test_rounded_timesteps_are_those_of_bfloat16(which):
  latents, _, text, mask, control = inputs((2, 2))
  at = lambda t: jnp.full(2, t, jnp.float32)
  module, more = {
    'transformer': (Sana(**BASE), {}),
    'controlnet': (SanaControlNet(**CONTROL), dict(control=control)),
  }[which]
  params = random_params(module)

  def difference(model):
    run = lambda t: apply(model, params, latents, t, text, mask=mask, **more)
    return np.abs(np.float32(run(at(999.0)) - run(at(1000.0)))).max()

  # Between 512 and 1024, bfloat16 has every fourth number only.
  rounded = module.clone(dtype=jnp.bfloat16, rounded_timesteps=True)
  assert difference(rounded) == 0
  assert difference(rounded.clone(rounded_timesteps=False)) > 0
  assert difference(module.clone(rounded_timesteps=True)) > 0


@pytest.mark.long
def test_remat_and_unroll_change_nothing():
  latents, timesteps, text, mask, control = inputs((2, 2))
  params = random_params(SanaControlNet(**CONTROL))

  def run(**how):
    net = SanaControlNet(**CONTROL, **how)
    loss = lambda params: jnp.sum(
      net.apply({'params': params}, latents, timesteps, text, control, mask)[
        1, ..., 0
      ]
    )
    return jax.flatten_util.ravel_pytree(
      jax.jit(jax.value_and_grad(loss))(params)
    )[0]

  want = run()
  got = run(remat='full', unroll=2)
  assert relative_error(got, want) <= 1e-5


@pytest.mark.long
def test_the_first_block_gives_the_official_start():
  base, params, args, control = base_and_inputs()
  start = jax.jit(lambda params: first_block(base, {'params': params}, *args))(
    params
  )
  want = blocks_seen(base, params, args, None)[0]
  assert relative_error(start, want) <= 1e-5
  # With no block of its own to run, the latents count for nothing any more.
  latents, timesteps, text, mask = args
  net = SanaControlNet(**CONTROL)
  run = lambda latents, start: apply(
    net,
    random_params(net),
    latents,
    timesteps,
    text,
    control,
    mask,
    start=start,
  )
  np.testing.assert_array_equal(run(latents, start), run(2 * latents, start))
  assert np.abs(run(latents, start) - run(latents, None)).max() > 1e-2
