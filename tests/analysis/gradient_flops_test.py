"""Counted operations of gradients against closed forms and JAX itself."""

import jax
import jax.numpy as jnp
import pytest

from sana_jax import config as configs
from sana_jax import tasks
from sana_jax.analysis import flops, gradient_flops
from sana_jax.optim import freezing

still = jax.lax.stop_gradient
ONE = 2 * 4**3  # FLOPs of a product of two 4 x 4 matrices.
SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def products(loss, trained, *rest):
  """FLOPs in units of ONE; gradients are of `trained`, not of `rest`."""
  jaxpr = flops.traced(loss, trained, *rest)
  count = len(jax.tree.leaves(trained))
  found = gradient_flops.of_training(
    jaxpr, [i < count for i, _ in enumerate(jaxpr.invars)]
  )
  assert found % ONE == 0
  return found // ONE


def test_a_layer_on_data_has_the_gradient_of_its_weights_alone():
  loss = lambda params, x: jnp.sum(jax.nn.relu(x @ params[0]) @ params[1])
  assert products(loss, (SQUARE, SQUARE), SQUARE) == 2 + 3


def test_a_frozen_layer_has_no_gradient_of_its_weights():
  before = lambda p, frozen, x: jnp.sum((x @ frozen) @ p)
  assert products(before, SQUARE, SQUARE, SQUARE) == 1 + 2
  behind = lambda p, frozen, x: jnp.sum((x @ p) @ frozen)
  assert products(behind, SQUARE, SQUARE, SQUARE) == 2 + 2


def test_a_matrix_times_itself_has_two_gradients():
  assert products(lambda p: jnp.sum(p @ p), SQUARE) == 3


def test_what_stops_the_gradient_stops_it_on_both_sides():
  # Only the second product of the path on the left is differentiated.
  behind = lambda p, x: jnp.sum(still(x @ p) @ p)
  assert products(behind, SQUARE, SQUARE) == 1 + 2
  target = lambda p, x: jnp.sum((x @ p - still((x @ p) @ p)) ** 2)
  assert products(target, SQUARE, SQUARE) == 2 + 1 + 1


def test_metrics_and_whole_numbers_have_no_gradient():
  loss = lambda p, x: (jnp.sum(x @ p), {'more': (x @ p) @ p})
  assert products(loss, SQUARE, SQUARE) == 2 + 1 + 1
  chosen = lambda p, x: jnp.sum(x[jnp.argmax(x @ p, 0)] @ p)
  assert products(chosen, SQUARE, SQUARE) == 1 + 2


@pytest.mark.parametrize('wrap', [jax.jit, jax.checkpoint, lambda f: f])
def test_a_loop_over_layers_has_all_but_the_gradient_of_its_input(wrap):
  layers = jax.ShapeDtypeStruct((5, 4, 4), jnp.float32)
  body = wrap(lambda x, layer: (jnp.tanh(x @ layer), jnp.max(x)))
  loss = lambda p, x: jnp.sum(jax.lax.scan(body, x, p)[0])
  assert products(loss, layers, SQUARE) == 3 * 5 - 1
  frozen = lambda p, x, layers: jnp.sum(jax.lax.scan(body, x, layers)[0] @ p)
  assert products(frozen, SQUARE, SQUARE, layers) == 5 + 2
  ignored = lambda p, x: (jnp.sum(x @ p[0]), jax.lax.scan(body, x, p)[1])
  assert products(ignored, layers, SQUARE) == 2 + 5


def test_a_gradient_goes_through_all_rounds_of_a_loop():
  # One carry affects the loss through the other, a round later.
  def body(carry, _):
    x, y = carry
    return (y, x), None

  def loss(p, x):
    (one, _), _ = jax.lax.scan(body, (x, x @ p), None, length=3)
    return jnp.sum(one @ p)

  assert products(loss, SQUARE, SQUARE) == 2 + 3


def test_branches_and_custom_derivatives_are_followed():
  branch = lambda p, x: jnp.sum(
    jax.lax.cond(x[0, 0] > 0, lambda x: (x @ p) @ p, lambda x: x @ p, x)
  )
  assert products(branch, SQUARE, SQUARE) == 2 + 3

  @jax.custom_vjp
  def product(x, p):
    return x @ p

  product.defvjp(
    lambda x, p: (x @ p, (x, p)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g)
  )
  custom = lambda p, x: jnp.sum(product(product(x, p), p))
  assert products(custom, SQUARE, SQUARE) == 2 + 3

  @jax.custom_jvp
  def other(x, p):
    return x @ p

  other.defjvp(
    lambda primals, tangents: (
      other(*primals),
      tangents[0] @ primals[1] + primals[0] @ tangents[1],
    )
  )
  custom = lambda p, x: jnp.sum(other(other(x, p), p))
  assert products(custom, SQUARE, SQUARE) == 2 + 3


# The sums of a depthwise kernel's and bias's gradient, which JAX writes as
# products of vectors, are left out as the convolution is: 3 blocks, 9 + 1
# numbers a channel, 8 pictures of 4 x 4.
DEPTHWISE = 3 * (9 + 1) * 2 * (8 * 4 * 4) * 320


@pytest.mark.long
@pytest.mark.parametrize(
  'trainable, left_out',
  [
    ('', DEPTHWISE),
    # Kernels and biases that do not train have no sums.
    (r'patch_embed/.* blocks/cross_attention/.*', 0),
    (r'head/.*', 0),
  ],
)
def test_a_small_sana_has_the_products_that_jax_differentiates(
  trainable, left_out
):
  config = configs.train('sana').unlock()
  config.model = dict(
    width=64,
    depth=3,
    cross_heads=2,
    in_channels=4,
    out_channels=4,
    caption_channels=8,
    sample_size=4,
  )
  config.inputs.text_length = 6
  objective = tasks.objective(config)
  params = jax.eval_shape(objective.init, jax.random.key(0))
  trained, rest = freezing.split(params, trainable)
  frozen, batch = objective.frozen(), objective.batch(8)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 8))

  def loss(trained, rest, *args):
    return objective.loss(freezing.join(trained, rest), *args, 0)

  args = trained, rest, frozen, batch, keys
  jaxpr, count = flops.traced(loss, *args), len(jax.tree.leaves(trained))
  found = gradient_flops.of_training(
    jaxpr, [i < count for i, _ in enumerate(jaxpr.invars)]
  )
  both = flops.count(jax.value_and_grad(loss, has_aux=True), *args)
  assert found == both - left_out
