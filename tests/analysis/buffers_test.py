"""XLA's own text about memory is read."""

import pytest

from sana_jax.analysis import buffers, hlo

pytestmark = pytest.mark.fast

# As libtpu 0.0.42 and XLA for CUDA write it.
TEXT = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <2 reduce_sum.9 @0> (size=512,offset=0): f32[]
allocation 1: size 4096, parameter 0, shape |f32[32,32]| at ShapeIndex {}:
 value: <18 param @0> (size=4096,offset=0): f32[32,32]{1,0:T(8,128)}
allocation 2: size 2048, output shape is |f32[512]|, maybe-live-out:
 value: <23 out @0> (size=2048,offset=0): f32[512]{0}
allocation 3: size 10000, preallocated-temp:
 value: <19 big{1} @0> (size=6000,offset=0): f32[1500]{0:T(1024)}
 value: <20 shares @0> (size=5000,offset=500): f32[1250]{0}
 value: <21 beside @0> (size=4000,offset=6000): f32[1000]{0}
allocation 4: size 99999, color 1, preallocated-temp:
 value: <22 on_chip @1> (size=99999,offset=0): f32[5]{0:S(1)}
Used values:
 value: <22 never @0> (size=99999,offset=0): f32[5]{0}
"""
MODULE = hlo.parse("""
ENTRY %main (p: f32[1]) -> f32[1] {
  %big = (s32[], f32[1500]) custom-call(), metadata={op_name="jit(f)/dot" \
source_file="/x/sana_jax/models/sana.py" source_line=5}
}
""")


def test_arguments_and_temporaries_are_added_up():
  found = buffers.arrange(TEXT, MODULE, 10)
  assert (found.arguments, found.temporaries) == (4096 + 2048, 10_000)
  assert found.total == 4096 + 2048 + 10_000


def test_the_largest_have_places_of_their_own_and_lines():
  first, second = buffers.arrange(TEXT, MODULE, 10).largest
  assert first == (6000, 'f32[1500]', 'sana_jax/models/sana.py:5 dot')
  assert second == (4000, 'f32[1000]', 'beside')
  assert len(buffers.arrange(TEXT, MODULE, 1).largest) == 1


@pytest.mark.parametrize('written', [False, True])
def test_the_newest_program_in_a_folder_is_read(tmp_path, written):
  if written:
    stem = tmp_path / 'module_1.jit_f.after_optimizations'
    stem.with_name(stem.name + '-buffer-assignment.txt').write_text(TEXT)
    stem.with_name(stem.name + '.txt').write_text('')
  found = buffers.read(tmp_path)
  assert (found.temporaries if found else None) == (10_000 if written else None)
