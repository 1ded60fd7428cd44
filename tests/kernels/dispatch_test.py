"""Backend selection: by platform, by name, and by context."""

import sys
import threading
import types

import jax
import jax.numpy as jnp
import pytest

from sana_jax.kernels import dispatch, glumb_conv, relu_linear_attention
from sana_jax.kernels.dispatch import Op, UnsupportedError

pytestmark = pytest.mark.fast


def even(x):
  """A backend that cannot run odd lengths."""
  if x.shape[0] % 2:
    raise UnsupportedError(f'a length of {x.shape[0]} is odd')
  return 2 * x


def broken(x):
  raise ValueError('a bug')


@pytest.fixture
def op(monkeypatch):
  monkeypatch.setitem(
    sys.modules,
    'backends_of_a_test',
    types.SimpleNamespace(even=even, broken=broken),
  )
  return Op(
    'doubled',
    lambda x: x + x + 0.0 * jnp.sum(x),
    {name: f'backends_of_a_test:{name}' for name in ('even', 'broken')},
    {'tpu': ('even',), 'gpu': ('broken',)},
  )


def primitives(f, *args):
  return {
    e.primitive.name for e in jax.make_jaxpr(lambda *a: f(*a))(*args).eqns
  }


def test_the_first_backend_that_supports_the_call_is_chosen_by_platform(op):
  assert 'reduce_sum' in primitives(op, jnp.ones(4))  # On this CPU, XLA.
  with dispatch.platform('tpu'):
    assert 'reduce_sum' not in primitives(op, jnp.ones(4))
    assert 'reduce_sum' in primitives(op, jnp.ones(3))
  assert dispatch.target() == 'cpu'


def test_a_backend_requested_by_name_never_falls_back(op):
  assert 'reduce_sum' not in primitives(
    lambda x: op(x, implementation='even'), jnp.ones(4)
  )
  with pytest.raises(UnsupportedError, match='a length of 3 is odd'):
    op(jnp.ones(3), implementation='even')
  with dispatch.prefer(doubled='even'), pytest.raises(UnsupportedError):
    op(jnp.ones(3))


def test_a_bug_in_a_kernel_is_not_hidden(op):
  with dispatch.platform('gpu'), pytest.raises(ValueError, match='a bug'):
    op(jnp.ones(4))


def test_an_unknown_name_lists_the_known(op):
  with pytest.raises(ValueError, match="'cuda'.*even, broken, xla"):
    op(jnp.ones(4), implementation='cuda')


def test_the_choice_and_its_reason_are_logged_once(op, monkeypatch):
  logged = []
  monkeypatch.setattr(
    dispatch.logging, 'info', lambda form, *args: logged.append(form % args)
  )
  dispatch._log.cache_clear()
  with dispatch.platform('tpu'):
    for n in (3, 4, 3, 4):
      op(jnp.ones(n))
  assert logged == [
    'doubled runs on xla (even: a length of 3 is odd).',
    'doubled runs on even.',
  ]


@pytest.mark.parametrize(
  'op', [relu_linear_attention, glumb_conv], ids=lambda op: op.name
)
def test_every_backend_of_an_op_is_there(op):
  for name in op.implementations:
    assert callable(op.backend(name))


def test_a_preferred_backend_is_used_by_what_was_traced_before(op):
  run = jax.jit(op)
  run(jnp.ones(3))
  with dispatch.prefer(doubled='even'), pytest.raises(UnsupportedError):
    run(jnp.ones(3))
  assert run(jnp.ones(3))[0] == 2  # XLA again, where none is preferred.


def test_a_choice_is_traced_once_and_found_again(op):
  traces = []

  @jax.jit
  def run(x):
    traces.append(dispatch.preferred())
    return op(x)

  for _ in range(2):
    run(jnp.ones(4))
    with dispatch.prefer(doubled='even'):
      run(jnp.ones(4))
  assert traces == [{}, {'doubled': 'even'}]


def test_a_preference_applies_to_its_thread_unless_set_for_all(op):
  seen = []
  look = lambda: seen.append(dispatch.preferred())
  for prefer in dispatch.prefer, dispatch.prefer_in_all_threads:
    with prefer(doubled='even'):
      assert dispatch.preferred() == {'doubled': 'even'}
      thread = threading.Thread(target=look)
      thread.start()
      thread.join()
  look()
  assert seen == [{}, {'doubled': 'even'}, {}]


def test_one_program_may_use_two_backends(op):
  def both(x):
    with dispatch.prefer(doubled='even'):
      first = jax.jit(op)(x)
    return first, jax.jit(op)(x)

  program = str(jax.make_jaxpr(both)(jnp.ones(4)))
  assert program.count('reduce_sum') == 1


def test_calls_are_recorded_though_they_were_traced_before(op):
  run = jax.jit(op)
  run(jnp.ones(4))
  for _ in range(2):
    with dispatch.recorded() as calls:
      run(jnp.ones(4))
    assert calls == [dispatch.Call('doubled', ((4,),), 'float32')]
