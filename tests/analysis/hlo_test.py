"""The text of a program is read: shapes, loops, fusions, lines."""

import jax
import jax.numpy as jnp
import pytest

from sana_jax.analysis import hlo

pytestmark = pytest.mark.fast

TEXT = """HloModule jit_f, is_scheduled=true

FileNames
1 "/somewhere/sana_jax/models/sana.py"
2 "/usr/lib/python3/site-packages/flax/linen/linear.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=2 end_column=9}
2 {file_name_id=2 function_name_id=1 line=9 end_line=9 column=2 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}
3 {file_location_id=2 parent_frame_id=2}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], /*index=1*/f32[8]{0:T(256)S(1)}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %twice = f32[8]{0} add(%x, %x), metadata={op_name="jit(f)/jit(main)/add" \
stack_frame_id=2}
  ROOT %out = (s32[], f32[8]) tuple(%x, %twice)
}

%condition (q: (s32[], f32[8])) -> pred[] {
  %q = (s32[], f32[8]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%q), index=0
  %limit = s32[]{:T(128)} constant(20)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %start = (s32[], f32[8]) tuple(%a, %a)
  %loop = (s32[], f32[8]) while(%start), condition=%condition, body=%body
  ROOT %b = f32[8]{0} get-tuple-element(%loop), index=1, metadata={\
op_name="jit(f)/out" source_file="/x/kernels/a.py" source_line=3}
}
"""


def test_the_trip_count_of_a_loop_follows_from_its_condition():
  module = hlo.parse(TEXT)
  times = {s.instruction.name: s.times for s in module.steps()}
  assert (times['twice'], times['b']) == (20, 1)
  assert 'less' not in times


def test_a_known_count_goes_before_the_condition():
  text = TEXT.replace(
    'body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
  )
  module = hlo.parse(text)
  assert module.trips(module.computations['main']['loop']) == 3


def test_a_line_is_taken_apart():
  x = hlo.parse(TEXT).computations['body']['twice']
  assert (x.opcode, x.shape, x.operands) == ('add', 'f32[8]{0}', ('x', 'x'))
  assert not x.is_root and hlo.parse(TEXT).computations['body']['out'].is_root


def test_instructions_lead_to_lines():
  module = hlo.parse(TEXT)
  assert module.source(module.computations['body']['twice']) == (
    'flax/linen/linear.py:9 add'
  )
  assert module.source(module.computations['main']['b']).startswith(
    'kernels/a.py:3'
  )


def test_the_source_of_a_library_call_is_the_project_line_that_called_it():
  module = hlo.parse(TEXT.replace('stack_frame_id=2', 'stack_frame_id=3'))
  assert module.source(module.computations['body']['twice']) == (
    'sana_jax/models/sana.py:7 add'
  )


@pytest.mark.parametrize(
  'shape, count, padded, space',
  [
    ('f32[3,5]', 60, 60, 0),
    ('bf16[2240,35]{1,0:T(8,128)(2,1)}', 2240 * 35 * 2, 2240 * 128 * 2, 0),
    # The second array's minor axis is its first.
    ('bf16[2240,35]{0,1:T(8,128)}', 2240 * 35 * 2, 2304 * 40 * 2, 0),
    ('pred[7]{0:T(256)S(1)}', 7, 7, 1),
    ('f8e4m3fn[4,2]', 8, 8, 0),
    ('s4[8]', 4, 4, 0),
    ('u32[]', 4, 4, 0),
  ],
)
def test_bytes_of_an_array(shape, count, padded, space):
  (array,) = hlo.arrays(shape)
  assert hlo.size(shape) == count
  assert (array.bytes, array.space) == (padded, space)


def test_a_tuple_has_the_bytes_of_its_parts():
  assert hlo.size('(f32[2]{0}, /*index=1*/(bf16[3]{0}, s32[]))') == 8 + 6 + 4


def test_what_jax_compiles_here_is_read():
  def f(x):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), x, None, 5)[0]

  text = jax.jit(f).lower(jnp.ones((16, 16))).compile().as_text()
  module = hlo.parse(text)
  (loop,) = (
    x
    for c in module.computations.values()
    for x in c.values()
    if x.opcode == 'while'
  )
  assert module.trips(loop) == 5
