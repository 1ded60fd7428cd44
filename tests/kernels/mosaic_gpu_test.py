"""Hardware checks and barriers of the GPU kernels."""

import functools

import jax
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.kernels import dispatch, gpu, relu_linear_attention
from sana_jax.kernels import glumb_conv as op
from sana_jax.kernels.dispatch import UnsupportedError
from sana_jax.kernels.glumb_conv import mosaic_gpu as gate
from sana_jax.kernels.glumb_conv.xla import glumb_conv
from sana_jax.kernels.linear_attention import mosaic_gpu, xla


def attend(*shape, dtype=jnp.bfloat16, **kwargs):
  return relu_linear_attention(
    *[jnp.ones(shape, dtype)] * 3, implementation='mosaic_gpu', **kwargs
  )


def test_unsupported_attention_calls_raise_the_reason():
  with pytest.raises(UnsupportedError, match=r'9\.0.*cpu'):
    attend(1, 8, 2, 32)
  with pytest.raises(UnsupportedError, match='float32'):
    attend(1, 8, 2, 32, dtype=jnp.float32, interpret=True)
  with pytest.raises(UnsupportedError, match='48'):
    attend(1, 8, 2, 48, interpret=True)
  with pytest.raises(UnsupportedError, match='eps=0'):
    attend(1, 8, 2, 32, eps=0.0, interpret=True)


def test_another_gpu_is_named(monkeypatch):
  class Blackwell:
    compute_capability = '10.0'

  monkeypatch.setattr(jax, 'devices', lambda: [Blackwell()])
  with (
    dispatch.platform('gpu'),
    pytest.raises(UnsupportedError, match=r'9\.0.*10\.0'),
  ):
    gpu.check_supported(interpret=False)


def test_tiles_are_read_after_arrival_and_overwritten_after_reading():
  k, v = (
    jnp.asarray(
      np.random.default_rng().normal(size=(1, 520, 1, 32)), jnp.bfloat16
    )
    for _ in 'kv'
  )
  parts = mosaic_gpu._parts(gpu.interpret_params(detect_races=True))
  got, want = parts.state(k, v), xla.state(k, v)
  assert not gpu_callbacks.get_races().races_found
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def normal(*shape, dtype=jnp.bfloat16):
  return jnp.asarray(np.random.default_rng().normal(size=shape), dtype)


def relative_error(got, want):
  got, want = (np.asarray(a, np.float64) for a in (got, want))
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.fixture
def small_tiles(monkeypatch):
  """Two tiles down and across, and two blocks of channels, the last in part."""
  monkeypatch.setattr(gate, 'ROWS', (2,))


def reference(x, kernel, bias, *douts):
  """The definition in float32, and its gradients by each dout."""
  full = [a.astype(jnp.float32) for a in (x, kernel, bias)]
  out, back = jax.vjp(glumb_conv, *full)
  return out, *(back(dout.astype(jnp.float32)) for dout in douts)


@pytest.mark.long
def test_the_gate_of_rows_between_others_is_its_definition(small_tiles):
  args = normal(1, 5, 9, 528), normal(3, 3, 528), normal(528)
  got = gate.forward(
    *args, halo=True, interpret=gpu.interpret_params(detect_races=True)
  )
  assert not gpu_callbacks.get_races().races_found
  # Of the whole picture, its outermost rows are the halo.
  want = jax.jit(reference)(*args)[0][:, 1:-1]
  assert relative_error(got, want) <= 1e-2


@pytest.mark.long
def test_the_gradient_of_rows_between_others_is_its_definition(small_tiles):
  args = normal(1, 7, 9, 32), normal(3, 3, 32), normal(32)
  dout = normal(1, 7, 9, 16)
  backward = functools.partial(
    gate.backward,
    halo=True,
    interpret=gpu.interpret_params(detect_races=True),
  )
  got = jax.jit(backward)(*args, dout[:, 1:-1])
  assert not gpu_callbacks.get_races().races_found
  # dx includes the neighbours' rows of dout; the weights' gradients do not.
  of = lambda count: dout.at[:, :count].set(0).at[:, -count:].set(0)
  _, whole, own = jax.jit(reference)(*args, of(1), of(2))
  for a, b in zip(got, (whole[0][:, 2:-2], *own[1:])):
    assert relative_error(a, b) <= 1e-2


def test_unsupported_gate_calls_raise_the_reason():
  with pytest.raises(UnsupportedError, match='float32'):
    gate.check_supported(normal(1, 2, 2, 32, dtype=jnp.float32), True)
  with pytest.raises(UnsupportedError, match='12'):
    gate.check_supported(normal(1, 2, 2, 24), True)


@pytest.mark.long
def test_the_op_runs_the_gate_and_its_gradient(small_tiles):
  args = normal(2, 3, 1, 32), normal(3, 3, 32), normal(32)

  def run(*args):
    interpret = gpu.interpret_params(detect_races=True)
    out, back = jax.vjp(
      functools.partial(op, implementation='mosaic_gpu', interpret=interpret),
      *args,
    )
    return out, *back(jnp.ones_like(out))

  got = jax.jit(run)(*args)
  assert not gpu_callbacks.get_races().races_found
  out, grads = jax.jit(reference)(*args, jnp.ones((2, 3, 1, 16)))
  for a, b in zip(got, (out, *grads)):
    assert a.dtype == jnp.bfloat16
    assert relative_error(a, b) <= 2e-2
