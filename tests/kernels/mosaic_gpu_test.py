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
  with pytest.raises(UnsupportedError, match='9.0, not cpu'):
    attend(1, 8, 2, 32)
  with pytest.raises(UnsupportedError, match='not float32'):
    attend(1, 8, 2, 32, dtype=jnp.float32, interpret=True)
  with pytest.raises(UnsupportedError, match='48 columns'):
    attend(1, 8, 2, 48, interpret=True)
  with pytest.raises(UnsupportedError, match='eps=0'):
    attend(1, 8, 2, 32, eps=0.0, interpret=True)


def test_another_gpu_is_named(monkeypatch):
  class Blackwell:
    compute_capability = '10.0'

  monkeypatch.setattr(jax, 'devices', lambda: [Blackwell()])
  with (
    dispatch.platform('gpu'),
    pytest.raises(UnsupportedError, match='9.0, not 10.0'),
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
  monkeypatch.setattr(gate, 'ROWS', (4,))


@pytest.mark.parametrize(
  'halo, shape', [(False, (2, 2, 1, 32)), (True, (1, 7, 9, 528))]
)
def test_the_gate_is_its_definition(halo, shape, small_tiles):
  args = normal(*shape), normal(3, 3, shape[-1]), normal(shape[-1])
  got = gate.forward(
    *args, halo=halo, interpret=gpu.interpret_params(detect_races=True)
  )
  assert not gpu_callbacks.get_races().races_found
  want = glumb_conv(*(a.astype(jnp.float32) for a in args))
  # Of the whole picture, its outermost rows are the halo.
  assert relative_error(got, want[:, 1:-1] if halo else want) <= 1e-2


@pytest.mark.parametrize(
  'halo, shape', [(False, (1, 2, 1, 32)), (True, (1, 9, 9, 32))]
)
def test_the_gradient_of_the_gate_is_its_definition(halo, shape, small_tiles):
  x, kernel, bias, dout = (
    normal(*s)
    for s in (
      shape,
      (3, 3, shape[-1]),
      shape[-1:],
      (*shape[:3], shape[-1] // 2),
    )
  )
  rows = lambda a, count: a[:, count:-count] if halo else a
  got = jax.jit(
    functools.partial(
      gate.backward,
      halo=halo,
      interpret=gpu.interpret_params(detect_races=True),
    )
  )(x, kernel, bias, rows(dout, 1))
  assert not gpu_callbacks.get_races().races_found
  _, back = jax.vjp(
    glumb_conv, *(a.astype(jnp.float32) for a in (x, kernel, bias))
  )

  def of(count):
    """Gradients by all of dout but its outermost rows."""
    kept = (
      dout
      if not halo
      else jnp.pad(rows(dout, count), ((0, 0), (count, count), (0, 0), (0, 0)))
    )
    return back(kept.astype(jnp.float32))

  # dx includes the neighbours' rows of dout; the weights' gradients do not.
  want = rows(of(1)[0], 2), *of(2)[1:]
  for a, b in zip(got, want):
    assert relative_error(a, b) <= 1e-2


def test_unsupported_gate_calls_raise_the_reason():
  with pytest.raises(UnsupportedError, match='float32'):
    gate.check_supported(normal(1, 2, 2, 32, dtype=jnp.float32), True)
  with pytest.raises(UnsupportedError, match='12 channels are not a multiple'):
    gate.check_supported(normal(1, 2, 2, 24), True)


def test_the_op_runs_the_gate_and_its_gradient(small_tiles):
  args = normal(1, 5, 3, 32), normal(3, 3, 32), normal(32)

  def run(f, *args):
    out, back = jax.vjp(f, *args)
    return out, *back(jnp.ones_like(out))

  got = jax.jit(
    functools.partial(
      run, functools.partial(op, implementation='mosaic_gpu', interpret=True)
    )
  )(*args)
  want = run(glumb_conv, *(a.astype(jnp.float32) for a in args))
  for a, b in zip(got, want):
    assert a.dtype == jnp.bfloat16
    assert relative_error(a, b) <= 2e-2
