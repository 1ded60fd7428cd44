"""Every moment of a trace counts once, for its operation's kind."""

import jax
import jax.numpy as jnp
import pytest

from sana_jax.analysis import profile_breakdown as losses
from sana_jax.analysis.profile_breakdown import Event

pytestmark = pytest.mark.fast

# In the form of XLA's own dumps, abridged.
TEXT = (
  """HloModule jit_step, is_scheduled=true

%gemm (p: bf16[8,8]) -> bf16[8,8] {
  %p = bf16[8,8]{1,0} parameter(0)
  ROOT %dot.1 = bf16[8,8]{1,0} dot(%p, %p)
}

%gate (p.1: bf16[8,8]) -> (bf16[8,8], f32[]) {
  %p.1 = bf16[8,8]{1,0} parameter(0)
  ROOT %mul.1 = bf16[8,8]{1,0} multiply(%p.1, %p.1)
}

%move (p.2: bf16[8,8]) -> bf16[8,8] {
  %p.2 = bf16[8,8]{1,0} parameter(0)
  ROOT %t = bf16[8,8]{0,1} transpose(%p.2), dimensions={1,0}
}

ENTRY %main (x: bf16[8,8]) -> bf16[8,8] {
  %x = bf16[8,8]{1,0} parameter(0)
  %fusion = bf16[8,8]{1,0} fusion(%x), calls=%gemm, metadata={OF_FFN}
  %fusion.1 = bf16[8,8]{1,0} fusion(%x), calls=%gemm, metadata={OF_REMAT}
  %fusion.2 = (bf16[8,8]{1,0}, f32[]) fusion(%x), kind=kLoop, calls=%gate
  %fusion.3 = bf16[8,8]{0,1} fusion(%x), kind=kLoop, calls=%move
  %custom-call.1 = (f32[8], s8[4]) custom-call(%x), TARGET="__cublas$lt$matmul"
  %custom-call.2 = f32[8] custom-call(%x), TARGET="mosaic_gpu_v2"
  %cudnn-conv.1 = f32[8] custom-call(%x), TARGET="__cudnn$convForward"
  %all-reduce.1 = bf16[8,8]{1,0} all-reduce(%x), to_apply=%sum
  %while.1 = bf16[8,8]{1,0} while(%x), condition=%c, body=%b
  ROOT %copy.1 = bf16[8,8]{1,0} copy(%x)
}
""".replace('TARGET', 'custom_call_target')
  .replace(
    'OF_FFN', 'op_name="jit(step)/jvp(Sana)/blocks/mix_ffn/dot_general" id=1'
  )
  .replace(
    'OF_REMAT',
    'op_name="jit(step)/checkpoint/rematted_computation/dot_general"',
  )
)
KNOWN = losses.operations(TEXT)


@pytest.mark.parametrize(
  'name, kind',
  [
    ('fusion', 'products'),
    ('fusion.1', 'computed again'),
    ('fusion.2', 'elementwise'),
    ('fusion.3', 'copies'),
    ('custom-call.1', 'products'),
    ('custom-call.2', 'kernels'),
    ('cudnn-conv.1', 'convolutions'),
    ('all-reduce.1', 'collectives'),
    ('while.1', None),
    ('copy.1', 'copies'),
  ],
)
def test_operations_are_what_they_hold(name, kind):
  assert KNOWN[name].kind == kind


def test_operations_have_their_source():
  assert KNOWN['fusion'].where == 'jvp(Sana)/blocks/mix_ffn/dot_general'
  assert KNOWN['copy.1'].where == 'copy.1'


@pytest.mark.parametrize(
  'name, kind',
  [
    ('nvjet_tst_128x256', 'products'),
    ('MemcpyD2D', 'copies'),
    ('ncclDevKernel_AllReduce', 'collectives'),
    ('loop_add', 'elementwise'),
    ('convert_element_type', 'elementwise'),
  ],
)
def test_unnamed_operations_get_their_kind_from_their_library(name, kind):
  assert losses.kind_by_name(name) == kind


def test_what_runs_behind_products_costs_nothing():
  s = 1e9
  times, places = losses.seconds(
    [
      Event(0, 9 * s, 'while.1'),
      Event(0, 4 * s, 'fusion'),
      Event(1 * s, 6 * s, 'all-reduce.1'),
      Event(7 * s, 8 * s, 'fusion.2'),
      Event(8 * s, 8 * s, 'copy.1'),
      Event(8 * s, 9 * s, 'MemcpyD2D'),
    ],
    KNOWN,
  )
  assert {kind: x for kind, x in times.items() if x} == {
    'products': 4,
    'collectives': 2,
    'idle': 1,
    'elementwise': 1,
    'copies': 1,
  }
  assert places['products'] == {'jvp(Sana)/blocks/mix_ffn/dot_general': 4}


def test_losses_are_what_lies_beyond_the_model_flops():
  s = 1e9
  found = losses.accounted(
    *losses.seconds(
      [
        Event(0, 4 * s, 'fusion'),
        Event(4 * s, 6 * s, 'custom-call.2'),
        Event(6 * s, 9 * s, 'fusion.2'),
        Event(10 * s, 12 * s, 'fusion.1'),
      ],
      KNOWN,
    ),
    steps=2,
    ideal=2.5,
  )
  assert [(t.kind, t.seconds, t.lost) for t in found] == [
    ('elementwise', 1.5, 1.5),
    ('computed again', 1, 1),
    ('kernels', 1, 0.5),
    ('idle', 0.5, 0.5),
    ('products', 2, 0),
  ]
  assert losses.largest(found) == [
    'elementwise: 25% of the step, 100% of it in fusion.2',
    'computed again: 17% of the step, 100% of it in '
    'jit(step)/checkpoint/rematted_computation/dot_general',
    'kernels below the peak: 8% of the step, 100% of it in custom-call.2',
  ]


def test_a_real_trace_has_every_product_of_its_program(tmp_path):
  def f(x):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), x, length=5)[0]

  x = jnp.full((256, 256), 0.01)
  program = jax.jit(f).lower(x).compile()
  other = jax.jit(lambda x: x + 1).lower(x).compile()
  jax.block_until_ready(program(x))
  with jax.profiler.trace(tmp_path):
    for _ in range(2):
      jax.block_until_ready(program(x))
      jax.block_until_ready(other(x))
  text = program.as_text()
  found = losses.events(tmp_path, 'jit_f')
  known = losses.operations(text)
  products = [e for e in found if known[e.name].kind == 'products']
  assert len(products) == 2 * 5
  times, _ = losses.seconds(found, known)
  ran = [e for e in found if known[e.name].kind]
  first, last = min(e.start for e in ran), max(e.end for e in ran)
  assert sum(times.values()) == pytest.approx((last - first) / 1e9)
  assert times['products'] > 0 and times['idle'] > 0
