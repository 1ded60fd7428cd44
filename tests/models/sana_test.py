"""The transformer: its sizes, its options, and one call of diffusers' own."""

import functools
import pathlib

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from sana_jax import config, kernels
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.weights import folder as folders

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
TINY = dict(
  width=16,
  depth=3,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  out_channels=3,
  caption_channels=6,
)
NORMED = dict(qk_norm=True, cross_norm=True)
# diffusers' own models: 548, 396 and 476 tensors and so on, counted there. The
# 3.2B has twice the 1.6B's blocks; 4.8B three times.
PARAMETERS = {
  'sana_600m_512': 591_747_872,
  'sana_600m_1024': 591_747_872,
  'sana_1600m_512': 1_604_462_752,
  'sana_1600m_1024': 1_604_462_752,
  'sana_1600m_2k': 1_604_462_752,
  'sana_1600m_4k': 1_604_462_752,
  'sana15_1600m_1024': 1_604_641_952,
  'sana15_3200m_1024': 3_163_233_952,
  'sana15_4800m_1024': 4_721_825_952,
  'sana_sprint_600m_1024': 593_501_216,
  'sana_sprint_1600m_1024': 1_610_237_472,
  # Without the guidance's two layers of 256 and `width` inputs.
  'sana_sprint_600m_1024_teacher': 593_501_216 - 1_624_320,
  'sana_sprint_1600m_1024_teacher': 1_604_641_952,
}


def inputs(fields=TINY, size=(4, 6)):
  rng = np.random.default_rng()
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  mask = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
  return (
    draw(2, *size, fields['in_channels']),
    jnp.float32([999, 136]),
    draw(2, 5, fields['caption_channels']),
    mask,
  )


@functools.cache
def random_params(**fields):
  """Values that matter everywhere: no zero biases, no norms of one."""
  shapes = abstract.transformer(Sana(**fields))
  rng = np.random.default_rng()
  return jax.tree.map(
    lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.3, s.dtype), shapes
  )


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, *args):
  return module.apply({'params': params}, *args)


def relative_error(got, want):
  return np.linalg.norm(got - want) / np.linalg.norm(want)


def assert_products_agree(left, *right):
  """<a, b> is the sum of the others, to rounding of |a| |b|."""
  product = lambda pair: float(jnp.vdot(*map(jnp.float32, pair)))
  scale = np.linalg.norm(left[0]) * np.linalg.norm(left[1])
  assert abs(product(left) - sum(map(product, right))) <= 3e-4 * scale


@pytest.mark.long
def test_every_published_size_has_its_number_of_parameters():
  assert config.SANA_SIZES.keys() == PARAMETERS.keys()
  count = functools.cache(
    lambda module: sum(
      s.size for s in jax.tree.leaves(abstract.transformer(module))
    )
  )
  for name, fields in config.SANA_SIZES.items():
    assert count(Sana(**fields)) == PARAMETERS[name], name


def test_one_call_is_that_of_diffusers():
  golden = load_file(GOLDEN / 'golden.safetensors')
  latents, timesteps, text, mask, want = (
    golden[f'one_call.{k}']
    for k in ('latents', 'timesteps', 'text', 'mask', 'velocity')
  )
  model = folders.load(GOLDEN, 'transformer')
  got = jax.jit(model.module.apply)(
    model.variables, latents, timesteps, text, mask.astype(bool)
  )
  assert relative_error(got, want) <= 1e-5


@pytest.mark.long
def test_remat_and_unroll_change_neither_output_nor_gradients():
  args, params = inputs(size=(2, 3)), random_params(**TINY)

  @functools.partial(jax.jit, static_argnums=0)
  @functools.partial(jax.grad, argnums=1, has_aux=True)
  def of(module, params):
    out = module.apply({'params': params}, *args)
    return jnp.sum(jnp.sin(out)), out

  def run(**how):
    grads, out = of(Sana(**TINY, **how), params)
    return out, jax.flatten_util.ravel_pytree(grads)[0]

  want, want_grads = run()
  assert jnp.linalg.norm(want_grads) > 1e-2
  for how in (
    {'unroll': 2, 'remat': 'full'},
    {'remat': 'dots'},
    {'remat': 'offload'},
  ):
    out, grads = run(**how)
    assert relative_error(out, want) <= 1e-5
    assert relative_error(grads, want_grads) <= 1e-5


@pytest.mark.long
def test_padded_words_do_not_change_the_velocity():
  latents, timesteps, text, mask = inputs()
  run = lambda text, mask: apply(
    Sana(**TINY), random_params(**TINY), latents, timesteps, text, mask
  )
  padded = jnp.where(mask[..., None], text, 100.0)
  np.testing.assert_allclose(
    run(padded, mask), run(text, mask), rtol=1e-5, atol=1e-5
  )
  # Nor does their number.
  np.testing.assert_allclose(
    run(text[:, :3], mask[:, :3])[0], run(text, mask)[0], rtol=1e-5, atol=1e-5
  )
  # But words do.
  assert np.abs(run(padded, None) - run(text, None))[0].max() > 1e-3


@pytest.mark.long
def test_no_mask_is_a_mask_of_ones_and_also_one_of_zeros():
  latents, timesteps, text, mask = inputs()
  run = lambda mask: apply(
    Sana(**TINY), random_params(**TINY), latents, timesteps, text, mask
  )
  np.testing.assert_allclose(
    run(None), run(jnp.ones_like(mask)), rtol=1e-4, atol=1e-5
  )
  # Adding -10,000 costs logits three digits in float32.
  np.testing.assert_allclose(
    run(jnp.zeros_like(mask)), run(None), rtol=1e-2, atol=1e-2
  )


def test_latents_of_any_shape_in_patches_of_two():
  size = 2, 6
  fields = TINY | dict(patch_size=2, out_channels=5, interpolation_scale=1.0)
  args = inputs(fields, size)
  out = apply(Sana(**fields), random_params(**fields), *args)
  assert out.shape == (2, *size, 5)


@pytest.mark.long
def test_patches_keep_their_positions():
  # With every block's gates and cross-attention at zero nothing mixes, so a
  # changed pixel changes its own patch of four and no other.
  fields = TINY | dict(patch_size=2)
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: (
      0 * x if 'blocks' in str(path) or 'modulation' in str(path) else x
    ),
    random_params(**fields),
  )
  latents, *rest = inputs(fields, (4, 6))
  run = lambda x: apply(Sana(**fields), params, x, *rest)
  moved = np.abs(run(latents.at[:, 2, 5].add(1.0)) - run(latents)) > 1e-6
  want = np.zeros((4, 6), bool)
  want[2:4, 4:6] = True
  np.testing.assert_array_equal(moved.any((0, 3)), want)


@pytest.mark.long
def test_the_position_table_breaks_the_symmetry_of_translation():
  # A constant image is constant inside, away from the border's padding,
  # unless positions are given.
  fields = TINY | dict(depth=1)
  latents, *rest = inputs(fields, (6, 6))
  run = lambda **how: apply(
    Sana(**fields, **how),
    random_params(**fields),
    jnp.ones_like(latents),
    *rest,
  )
  inside = lambda x: np.ptp(x[:, 1:-1, 1:-1], axis=(1, 2)).max()
  assert inside(run()) < 1e-5
  assert inside(run(interpolation_scale=1.0)) > 1e-2


def test_a_model_with_guidance_requires_and_uses_it():
  fields = TINY | dict(guidance_embeds=True)
  model = Sana(**fields)
  args, params = inputs(fields), random_params(**fields)
  with pytest.raises(ValueError, match='guidance'):
    jax.eval_shape(model.apply, {'params': params}, *args)
  weak, strong = (
    apply(model, params, *args, jnp.full(2, g)) for g in (0.1, 0.5)
  )
  assert np.abs(weak - strong).max() > 1e-4


def test_bfloat16_is_near_float32():
  args, params = inputs(), random_params(**TINY)
  want = apply(Sana(**TINY), params, *args)
  got = apply(Sana(**TINY, dtype=jnp.bfloat16), params, *args)
  assert got.dtype == jnp.bfloat16
  assert 1e-5 < relative_error(np.float32(got), want) <= 5e-2


@pytest.mark.long
@pytest.mark.parametrize('fields', [TINY, TINY | NORMED], ids=['', 'normed'])
def test_text_projected_once_gives_the_same_velocity(fields):
  model, params = Sana(**fields), random_params(**fields)
  x, t, text, mask = inputs()
  project = functools.partial(model.apply, method='project_text')
  projected = jax.jit(project)({'params': params}, text)
  assert projected.keys.shape == (2, 3, 5, 2, 8)
  got, want = (apply(model, params, x, t, y, mask) for y in (projected, text))
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
  'fields, backends',
  [(TINY | NORMED, {'glumb_conv': 'xla_jvp'}), (TINY, {})],
  ids=['normed', 'default'],
)
def test_tangents_agree_with_gradients_in_forward_mode(fields, backends):
  """<w, J v> = <J^T w, v>, as Sprint's consistency loss needs them."""
  params = random_params(**fields)
  latents, times, *text = inputs()
  x, w = np.random.default_rng().normal(size=(2, *latents.shape))

  @jax.jit
  def both(params, latents, times, x, w, *text):
    variables = {'params': params}
    run = lambda x, t: Sana(**fields).apply(variables, x, t, *text)
    with kernels.prefer(**backends):
      out = jax.jvp(run, (latents, times), (x, jnp.ones_like(times)))
    want, back = jax.vjp(run, latents, times)
    return *out, want, *back(w)

  out, tangent, want, dx, dt = both(
    params, latents, times, jnp.float32(x), jnp.float32(w), *text
  )
  assert relative_error(out, want) <= 1e-6
  assert_products_agree((w, tangent), (dx, x), (dt, jnp.ones_like(dt)))
