"""ArrayRecord files written by array_record and msgpack."""

import msgpack
import numpy as np
import pytest
from written import array_record, encoded, failures, noisy

from sana_jax.data.arrayrecord import ArrayRecordSource, NAMES
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast

RECORDS = [
  {'image': encoded(7, 9), 'caption': 'zero'},
  {
    'image': encoded(),
    'captions': {'prompt': 'one', 'long': 'a longer one'},
    'scores': {'prompt': 21.5, 'long': 30.0},
    'height': 700,
    'width': 900,
  },
]


def write(path, records=RECORDS):
  return array_record(path, records)


def opened(path, **options):
  return ArrayRecordSource(path, None, **options)


@pytest.mark.parametrize('path', ['', '*.array_record*'])
def test_records_are_read_in_the_order_of_files(tmp_path, path):
  write(tmp_path / 'x.array_record-00000-of-00002')
  write(tmp_path / 'x.array_record-00001-of-00002', RECORDS[:1])
  source = opened(tmp_path / path)
  assert [source[i]['caption'] for i in range(3)] == ['zero', 'one', 'zero']
  assert source[2]['image'].shape == (7, 9, 3)
  assert source[1]['captions']['long'] == 'a longer one'
  assert source[1]['scores'] == {'prompt': 21.5, 'long': 30.0}
  np.testing.assert_array_equal(source.sizes(), [[7, 9], [700, 900], [7, 9]])
  np.testing.assert_array_equal(
    source.scores(), np.float32([np.nan, 21.5, np.nan])
  )


def test_damaged_records_raise_by_file_and_number(tmp_path):
  image = noisy()
  path = write(
    tmp_path / 'x.array_record',
    [
      {'image': image, 'caption': 'x'},
      {'image': image[:2000], 'caption': 'x'},
      {'image': image, 'caption': None},
      {'image': 'x.png', 'caption': 'x'},
      b'\xc1',
      msgpack.packb([1]),
      msgpack.packb({'image': image})[:100],
    ],
  )
  source = opened(path)
  found = failures(source)
  assert list(found) == [f'{path} #{i}' for i in range(1, 7)]
  assert found[f'{path} #2'] == 'it has no caption'
  wrong = "it is not a msgpack map with 'image' as bytes"
  assert found[f'{path} #3'] == found[f'{path} #5'] == wrong
  np.testing.assert_array_equal(source.sizes()[:3], [[64, 96]] * 3)
  assert not source.sizes()[3:].any()


def test_a_flipped_bit_costs_one_record(tmp_path):
  path = write(
    tmp_path / 'x.array_record',
    [{'image': noisy(seed=i), 'caption': str(i)} for i in range(9)],
  )
  content = bytearray(path.read_bytes())
  content[60_000] ^= 255
  path.write_bytes(content)
  assert len(failures(opened(path))) == 1


@pytest.mark.parametrize('size', [0, 1000, 100_000])
def test_a_truncated_file_is_skipped_by_name(tmp_path, size):
  for name in 'abc':
    write(
      tmp_path / f'{name}.array_record',
      [{'image': noisy(seed=i), 'caption': str(i)} for i in range(9)],
    )
  cut = tmp_path / 'b.array_record'
  cut.write_bytes(cut.read_bytes()[:size])
  source = opened(tmp_path, max_bad_fraction=0.1)
  assert len(source) == 18
  assert list(source.bad.reasons) == [str(cut)]
  assert not failures(source)


def test_an_empty_source_is_reported(tmp_path):
  with pytest.raises(UserError) as error:
    opened(tmp_path)
  assert error.value.key == 'data.path'
  assert error.value.value == str(tmp_path)
  assert error.value.allowed == NAMES
  (tmp_path / 'a.array_record').write_bytes(b'')
  with pytest.raises(UserError) as error:
    opened(tmp_path, max_bad_fraction=1.0)
  assert error.value.key == 'data.path'
  assert error.value.value == str(tmp_path)
  assert error.value.allowed == '1 record or more'


def test_remote_files_are_refused():
  with pytest.raises(UserError) as error:
    opened('gs://b/x*.array_record')
  assert error.value.key == 'data.path'
  assert error.value.value == 'gs://b/x*.array_record'
  assert error.value.allowed == 'local files'
