"""FLOPs and bytes of compiled operations, by closed forms."""

import jax
import jax.numpy as jnp
import pytest

from sana_jax.analysis import chips, hlo, work
from sana_jax.analysis.work import Work

pytestmark = pytest.mark.fast


def of(text):
  """(FLOPs, bytes) of a program's text."""
  found = work.of_program(hlo.parse(text))
  return sum(w.flops for w in found), sum(w.bytes for w in found)


def program(*lines, more=''):
  body = '\n'.join(f'  {line}' for line in lines)
  return f'{more}\nENTRY %main (p: f32[1]) -> f32[1] {{\n{body}\n}}\n'


def test_a_product():
  flops, moved = of(
    program(
      '%a = bf16[64,32]{1,0} parameter(0)',
      '%b = bf16[32,16]{1,0} parameter(1)',
      'ROOT %c = bf16[64,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}, '
      'rhs_contracting_dims={0}',
    )
  )
  assert flops == 2 * 64 * 32 * 16
  assert moved == 2 * (64 * 32 + 32 * 16 + 64 * 16)


def test_on_chip_memory_moves_for_free():
  _, moved = of(
    program(
      '%a = bf16[64,32]{1,0:S(1)} parameter(0)',
      'ROOT %c = bf16[64,32]{1,0} negate(%a)',
    )
  )
  assert moved == 64 * 32 * 2


def test_a_convolution_does_not_count_padding():
  flops, _ = of(
    program(
      '%a = f32[1,4,4,8]{3,2,1,0} parameter(0)',
      '%b = f32[3,3,8,16]{3,2,1,0} parameter(1)',
      'ROOT %c = f32[1,4,4,16]{3,2,1,0} convolution(%a, %b), '
      'window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f',
    )
  )
  # Of 4 x 3 pairs along an axis, two fall off the edge.
  assert flops == 2 * 10 * 10 * 8 * 16


def test_batched_products_that_xla_writes_as_a_convolution():
  # 20 pairs of matrices, each with its own: 39 of 20 x 20 offsets, one fits.
  flops, _ = of(
    program(
      '%a = f32[20,64,8]{2,1,0} parameter(0)',
      '%b = f32[20,8,32]{2,1,0} parameter(1)',
      'ROOT %c = f32[20,64,32]{2,1,0} convolution(%a, %b), window={size=20 '
      'stride=19 pad=0_0 lhs_dilate=20}, dim_labels=0bf_0io->0bf',
    )
  )
  assert flops == 2 * 20 * 64 * 8 * 32


def test_a_loop_repeats_its_work():
  def f(x):
    return jax.lax.scan(lambda c, _: (c @ c, None), x, None, 7)[0]

  flops, _ = of(jax.jit(f).lower(jnp.ones((128, 128))).compile().as_text())
  assert flops == 7 * 2 * 128**3


SLICED = """
%fused (a: f32[20,64], i: s32[]) -> f32[1,64] {
  %a = f32[20,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %s = f32[1,64]{1,0} dynamic-slice(%a, %i, %i)
}
"""
UPDATED = """
%fused (a: f32[20,64], u: f32[1,64], i: s32[]) -> f32[20,64] {
  %a = f32[20,64]{1,0} parameter(0)
  %u = f32[1,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %s = f32[20,64]{1,0} dynamic-update-slice(%a, %u, %i, %i)
}
"""


NESTED = """
%inner (c: f32[20,64], k: s32[]) -> f32[1,64] {
  %c = f32[20,64]{1,0} parameter(0)
  %k = s32[] parameter(1)
  ROOT %t = f32[1,64]{1,0} dynamic-slice(%c, %k, %k)
}

%fused (a: f32[20,64], i: s32[]) -> f32[1,64] {
  %a = f32[20,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[20,64]{1,0} bitcast(%a)
  ROOT %s = f32[1,64]{1,0} fusion(%b, %i), kind=kLoop, calls=%inner
}
"""
RELAID = """
%inner (c: f32[20,64]) -> f32[20,64] {
  %c = f32[20,64]{1,0:T(16,128)} parameter(0)
  ROOT %t = f32[20,64]{1,0:T(8,128)} copy(%c)
}

%fused (a: f32[20,64], i: s32[]) -> f32[1,64] {
  %a = f32[20,64]{1,0:T(16,128)} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[20,64]{1,0:T(8,128)} fusion(%a), kind=kLoop, calls=%inner
  ROOT %s = f32[1,64]{1,0} dynamic-slice(%b, %i, %i)
}
"""
WHOLE = """
%fused (a: f32[20,64], i: s32[]) -> f32[20,64] {
  %a = f32[20,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %b = f32[20,64]{0,1} copy(%a)
}
"""
BOTH = """
%fused (a: f32[20,64], u: f32[1,64], i: s32[]) -> (f32[20,64], f32[1,64]) {
  %a = f32[20,64]{1,0} parameter(0)
  %u = f32[1,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %n = f32[1,64]{1,0} negate(%u)
  %s = f32[20,64]{1,0} dynamic-update-slice(%a, %n, %i, %i)
  ROOT %r = (f32[20,64]{1,0}, f32[1,64]{1,0}) tuple(%s, %n)
}
"""


def slicing(more):
  """Reads a layer of a stack by the fusion `more`."""
  return program(
    '%w = f32[20,64]{1,0} parameter(0)',
    '%j = s32[] parameter(1)',
    'ROOT %f = f32[1,64]{1,0} fusion(%w, %j), kind=kLoop, calls=%fused',
    more=more,
  )


def updating(out, more):
  """Writes a layer of a stack by the fusion `more`, whose shape is `out`."""
  return program(
    '%w = f32[20,64]{1,0} parameter(0)',
    '%v = f32[1,64]{1,0} parameter(1)',
    '%j = s32[] parameter(2)',
    f'ROOT %f = {out} fusion(%w, %v, %j), kind=kLoop, calls=%fused',
    more=more,
  )


@pytest.mark.parametrize(
  'fusion',
  [SLICED, NESTED, RELAID],
  ids=['itself', 'within', 'in another layout'],
)
def test_of_a_stack_of_weights_only_a_layer_is_read(fusion):
  _, moved = of(slicing(fusion))
  assert moved == 2 * 64 * 4 + 4


def test_a_stack_that_is_copied_is_read():
  _, moved = of(slicing(WHOLE).replace('%f = f32[1,64]', '%f = f32[20,64]'))
  assert moved == 2 * 20 * 64 * 4 + 4


@pytest.mark.parametrize(
  'out, fusion, written',
  [
    ('f32[20,64]{1,0}', UPDATED, 1),
    ('(f32[20,64]{1,0}, f32[1,64]{1,0})', BOTH, 2),
    ('(f32[20,64]{1,0}, f32[1,64]{1,0:S(1)})', BOTH, 1),
  ],
  ids=['alone', 'beside another result', 'beside one on the chip'],
)
def test_of_a_stack_of_gradients_only_a_layer_is_written(out, fusion, written):
  _, moved = of(updating(out, fusion))
  # Reads the new layer and its place.
  assert moved == 64 * 4 + 4 + written * 64 * 4


def test_kernels_have_the_products_that_are_missing():
  text = program(
    '%a = bf16[64,32]{1,0} parameter(0)',
    '%b = bf16[32,16]{1,0} parameter(1)',
    '%c = bf16[64,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}, '
    'rhs_contracting_dims={0}',
    'ROOT %k = bf16[64,16]{1,0} custom-call(%c), '
    'custom_call_target="tpu_custom_call"',
  )
  dot = 2 * 64 * 32 * 16
  found = work.of_program(hlo.parse(text), expected=3.0 * dot)
  assert sorted(found) == sorted(
    [
      Work(dot, 2.0 * (64 * 32 + 32 * 16 + 64 * 16)),
      Work(2 * dot, 2.0 * 2 * 64 * 16),
    ]
  )
  assert (
    sum(w.flops for w in work.of_program(hlo.parse(text), expected=dot / 2))
    == dot
  )


def test_each_operation_takes_what_bounds_it():
  chip = chips.get('v5e')
  bound_by_products = Work(197e12, 1.0)
  bound_by_memory = Work(1.0, 2 * 819e9)
  assert work.seconds([bound_by_products, bound_by_memory], chip) == (
    pytest.approx(3)
  )
