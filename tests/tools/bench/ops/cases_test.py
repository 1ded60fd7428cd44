"""Cases are the calls of real models, with their FLOPs and bytes."""

import jax
import jax.numpy as jnp
import pytest

from sana_jax.analysis import flops
from sana_jax.errors import UserError
from sana_jax.kernels import (
  conv3x3_norm,
  conv3x3_silu,
  OPS,
  relu_linear_attention,
)
from sana_jax.tools.bench.ops import cases
from sana_jax.tools.bench.ops.cases import Case


@pytest.fixture(scope='module')
def autoencoder():
  return cases.of_models(['dc_ae_f32c32_sana_1.1'], [512, 1024], 1, 'float32')


@pytest.mark.long
def test_shapes_are_those_of_the_published_models():
  found = [
    *cases.of_models(['sana_600m_1024'], [512, 4096], None, 'bfloat16'),
    *cases.of_models(['sana_1600m_1024'], [4096], None, 'bfloat16'),
  ]
  # Width / 32 heads, 2 * 2.5 * width channels; 16 images or one of 4096 px.
  assert {c.shape for c in found} == {
    (16, 256, 36, 32),
    (16, 16, 16, 5760),
    (1, 16384, 36, 32),
    (1, 128, 128, 5760),
    (1, 16384, 70, 32),
    (1, 128, 128, 11200),
  }
  assert {c.dtype for c in found} == {'bfloat16'}


@pytest.mark.long
def test_an_autoencoder_has_a_case_for_each_stage_and_a_shape_is_there_once(
  autoencoder,
):
  attention = [c for c in autoencoder if c.op == 'relu_linear_attention']
  # Two scales of 1024, 1024 and 512 channels, at 1/32, 1/16 and 1/8.
  assert [c.shape for c in attention] == [
    (1, 256, 64, 32),
    (1, 1024, 64, 32),
    (1, 4096, 32, 32),
    (1, 4096, 64, 32),
    (1, 16384, 32, 32),
  ]
  assert attention[1].where == (
    'dc_ae_f32c32_sana_1.1 512 px, dc_ae_f32c32_sana_1.1 1024 px'
  )


def test_a_model_without_such_calls_is_refused():
  with pytest.raises(UserError) as error:
    cases.of_models(['gemma2_2b_it'], [512], 1, 'float32')
  assert (error.value.key, error.value.value) == ('--models', 'gemma2_2b_it')


def test_work_is_that_of_the_definition():
  b, n, h, d = shape = 2, 100, 3, 32
  x = jnp.zeros(shape)
  case = Case('relu_linear_attention', shape, 'bfloat16')
  # Besides, the normaliser: a product of q and z.
  assert flops.count(relu_linear_attention, x, x, x) == (
    case.flops(False) + 2 * b * n * h * d
  )
  both = lambda *x: jax.vjp(relu_linear_attention, *x)[1](x[0])
  assert (
    case.flops(True) <= flops.count(both, x, x, x) < (1.1 * case.flops(True))
  )
  assert case.bytes(False) == 4 * b * n * h * d * 2
  assert case.bytes(True) == 11 * b * n * h * d * 2


def test_work_of_the_gate():
  case = Case('glumb_conv', (2, 5, 7, 8), 'float32')
  assert case.size == 2 * 5 * 7 * 4
  # Nine taps of 8 channels; each is met three times in training, and the
  # convolution is computed again.
  assert case.flops(False) == 2 * 5 * 7 * 8 * 9 * 2
  assert case.flops(True) == 4 * case.flops(False)
  assert case.bytes(False) == 4 * (2 * 5 * 7) * (8 + 4)
  assert case.bytes(True) == 4 * (2 * 5 * 7) * (8 + 4 + 8 + 4 + 8)


@pytest.mark.long
def test_an_autoencoder_has_both_convolutions_of_its_residual_blocks(
  autoencoder,
):
  found = [c for c in autoencoder if c.where.endswith(' 1024 px')]
  for op in ('conv3x3_silu', 'conv3x3_norm'):
    assert [c.shape for c in found if c.op == op] == [
      (1, 256, 256, 512),
      (1, 512, 512, 256),
      (1, 1024, 1024, 128),
    ]


@pytest.mark.parametrize(
  'op, arrays',
  [(conv3x3_silu, (2, 5)), (conv3x3_norm, (3, 6))],
  ids=['silu', 'norm'],
)
def test_work_of_the_convolutions(op, arrays):
  case = Case(op.name, (2, 30, 40, 16), 'float32')
  inputs, dout = case.arguments()
  both = lambda *x: jax.vjp(op, *x)[1](dout)
  # The compiler counts no taps outside of the picture.
  assert (
    0.9 * case.flops(False)
    < flops.count(op, *inputs)
    < (1.1 * case.flops(False))
  )
  assert (
    0.9 * case.flops(True)
    < flops.count(both, *inputs)
    < (1.1 * case.flops(True))
  )
  picture = 2 * 30 * 40 * 16 * 4
  assert (case.bytes(False), case.bytes(True)) == tuple(
    n * picture for n in arrays
  )


@pytest.mark.long
@pytest.mark.parametrize(
  'case',
  [
    Case('relu_linear_attention', (2, 6, 3, 4), 'float32'),
    Case('glumb_conv', (2, 3, 5, 8), 'bfloat16'),
    Case('conv3x3_silu', (2, 3, 5, 8), 'bfloat16'),
    Case('conv3x3_norm', (2, 3, 5, 8), 'float32'),
  ],
  ids=lambda c: c.op,
)
def test_a_call_takes_arguments_as_models_have_them(case):
  inputs, dout = case.arguments()
  out = case.call(*inputs, implementation='xla')
  assert out.shape == dout.shape and out.dtype == case.dtype
  op = OPS[case.op]
  if case.op == 'relu_linear_attention':
    inputs = [x.reshape(case.shape) for x in inputs]
  assert (op(*inputs).reshape(out.shape) == out).all()
