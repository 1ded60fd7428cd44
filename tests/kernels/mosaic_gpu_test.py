"""What only kernels for GPUs have: a chip that they need, and barriers."""

import jax
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.kernels import dispatch, gpu, relu_linear_attention
from sana_jax.kernels.dispatch import UnsupportedError
from sana_jax.kernels.linear_attention import mosaic_gpu, xla


def attend(*shape, dtype=jnp.bfloat16, **kwargs):
  return relu_linear_attention(
    *[jnp.ones(shape, dtype)] * 3, implementation='mosaic_gpu', **kwargs)


def test_it_says_why_it_cannot_run():
  with pytest.raises(UnsupportedError, match='9.0, not a cpu'):
    attend(1, 8, 2, 32)
  with pytest.raises(UnsupportedError, match='not in float32'):
    attend(1, 8, 2, 32, dtype=jnp.float32, interpret=True)
  with pytest.raises(UnsupportedError, match='48 columns'):
    attend(1, 8, 2, 48, interpret=True)
  with pytest.raises(UnsupportedError, match='eps=0'):
    attend(1, 8, 2, 32, eps=0., interpret=True)


def test_another_gpu_is_named(monkeypatch):
  class Blackwell:
    compute_capability = '10.0'
  monkeypatch.setattr(jax, 'devices', lambda: [Blackwell()])
  with (dispatch.platform('gpu'),
        pytest.raises(UnsupportedError, match='9.0, not 10.0')):
    gpu.check_supported(interpret=False)


def test_tiles_are_read_after_they_arrive_and_replaced_after_they_are_read():
  k, v = (jnp.asarray(np.random.default_rng().normal(size=(1, 520, 1, 32)),
                      jnp.bfloat16) for _ in 'kv')
  parts = mosaic_gpu._parts(gpu.interpret_params(detect_races=True))
  got, want = parts.state(k, v), xla.state(k, v)
  assert not gpu_callbacks.get_races().races_found
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
