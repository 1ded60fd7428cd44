"""Torch checkpoints: read without torch, and refused if they are not data.

The hostile files are made by Python's own pickler; that they would run code is
shown by running them in the unrestricted unpickler, too.
"""

import pickle
import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
from pth_files import archive, F32, lazy, some_tensors, W
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import pickling, pth, pth_zip, wrapped
from sana_jax.weights.pickled import Storage, Tensor
from sana_jax.weights.tensors import stored

pytestmark = pytest.mark.fast


def one_tensor(path, tensor, data=None, **members):
  """A file with one tensor and one storage, which may be inconsistent."""
  data = np.arange(12, dtype=np.float32) if data is None else data
  archive(
    path,
    {
      'data.pkl': pickling.dumps({'w': tensor}, 'state_dict'),
      'data/0': data.tobytes(),
    }
    | members,
  )
  return path


def test_a_written_file_is_read_back(tmp_path):
  tensors = some_tensors()
  pth.write(tmp_path / 'x.pth', lazy(tensors))
  got = pth.read(tmp_path / 'x.pth')
  assert got.keys() == tensors.keys()
  for key, value in tensors.items():
    np.testing.assert_array_equal(got[key].read(), value, strict=True)
    assert got[key].shape == value.shape and got[key].dtype == value.dtype
  assert [p.name for p in tmp_path.iterdir()] == ['x.pth']


def test_storages_are_aligned(tmp_path):
  pth.write(tmp_path / 'x.pth', lazy(some_tensors()))
  with open(tmp_path / 'x.pth', 'rb') as file, zipfile.ZipFile(file) as z:
    for info in z.infolist():
      file.seek(info.header_offset)
      head = file.read(30)
      start = info.header_offset + 30 + sum(struct.unpack('<HH', head[26:]))
      assert start % 64 == 0


def test_large_members_have_zip64_sizes(tmp_path, monkeypatch):
  tensors = some_tensors()
  monkeypatch.setattr(pth_zip, '_ZIP64', 50)
  pth.write(tmp_path / 'x.pth', lazy(tensors))
  for key, t in pth.read(tmp_path / 'x.pth').items():
    np.testing.assert_array_equal(t.read(), tensors[key])


def test_a_failed_write_leaves_the_old_file(tmp_path):
  (tmp_path / 'x.pth').write_bytes(b'old')

  def fail(a, b):
    raise OSError('disk')

  broken = stored(np.zeros(3))
  broken = type(broken)(broken.shape, broken.dtype, fail)
  with pytest.raises(OSError, match='disk'):
    pth.write(tmp_path / 'x.pth', {'w': broken})
  assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [
    ('x.pth', b'old')
  ]


@pytest.mark.parametrize(
  'shape, strides, offset',
  [
    ((3, 4), (4, 1), 0),
    ((4, 3), (1, 4), 0),
    ((2, 3), (4, 1), 5),
    ((2, 2), (6, 2), 1),
    ((5,), (2,), 2),
    ((), (), 7),
    ((2, 1, 3), (3, 9, 1), 6),
  ],
)
def test_views_of_a_storage_are_read_by_rows(tmp_path, shape, strides, offset):
  data = np.random.default_rng().normal(size=12).astype(np.float32)
  path = one_tensor(
    tmp_path / 'x.pth',
    Tensor(Storage(F32, '0', 12), offset, shape, strides),
    data,
  )
  want = np.lib.stride_tricks.as_strided(
    data[offset:], shape, [4 * s for s in strides]
  )
  tensor = pth.read(path)['w']
  np.testing.assert_array_equal(tensor.read(), want, strict=True)
  assert tensor.read().flags.writeable
  for a in range(shape[0] if shape else 0):
    for b in range(a, shape[0] + 1):
      np.testing.assert_array_equal(tensor.fetch(a, b), want[a:b], strict=True)


def test_rows_are_read_without_the_rest(tmp_path, monkeypatch):
  pth.write(tmp_path / 'x.pth', lazy({'w': np.arange(4000.0).reshape(100, 40)}))
  tensor, counts, fromfile = pth.read(tmp_path / 'x.pth')['w'], [], np.fromfile
  monkeypatch.setattr(
    np,
    'fromfile',
    lambda file, dtype, count: (
      counts.append(count),
      fromfile(file, dtype, count),
    )[1],
  )
  assert tensor.rows(10, 90).fetch(5, 7)[0, 0] == 600
  assert counts == [80]


def test_the_other_byte_order_is_read(tmp_path):
  data = np.arange(12, dtype='>f4')
  path = one_tensor(
    tmp_path / 'x.pth',
    Tensor(Storage(F32, '0', 12), 2, (3, 3), (3, 1)),
    data,
    byteorder='big',
  )
  np.testing.assert_array_equal(
    pth.read(path)['w'].read(), np.arange(2, 11.0).reshape(3, 3)
  )


@pytest.mark.parametrize(
  'tensor, value, allowed',
  [
    (Tensor(Storage(F32, '0', 12), 0, (3, 4), (5, 1)), 13, 'below 12'),
    (Tensor(Storage(F32, '0', 12), 9, (4,), (1,)), 12, 'below 12'),
    (
      Tensor(Storage(F32, '0', 12), 0, (3, 10**12), (0, 0)),
      (3, 10**12),
      '12 elements or fewer',
    ),
    (Tensor(Storage(F32, '0', 13), 0, (3, 4), (4, 1)), 48, '52 bytes'),
    (
      Tensor(Storage(np.dtype(np.float64), '0', 12), 0, (3,), (1,)),
      48,
      '96 bytes',
    ),
    (Tensor(Storage(F32, '1', 12), 0, (3,), (1,)), '1', ['0']),
    (
      Tensor(Storage(F32, '0', 2**40), 2**39, (2,), (1,)),
      48,
      f'{2**42} bytes',
    ),
  ],
)
def test_a_tensor_outside_of_its_storage_is_refused(
  tmp_path, tensor, value, allowed
):
  path = one_tensor(tmp_path / 'x.pth', tensor)
  with pytest.raises(UserError) as error:
    pth.read(path)
  assert str(path) in str(error.value)
  assert (error.value.key, error.value.value, error.value.allowed) == (
    'w',
    value,
    allowed,
  )


def test_names_of_python_2_are_read(tmp_path):
  # OrderedDict([['w', tensor]]), and text without Unicode.
  tensor = pickling.dumps({'w': W}, 'x')
  tensor = tensor[tensor.index(b'ctorch._utils') : tensor.rindex(b'us.')]
  archive(
    tmp_path / 'x.pth',
    {
      'data.pkl': b'\x80\x02ccollections\nOrderedDict\n(](](U\x01w'
      + tensor
      + b'eetR.',
      'data/0': np.arange(12, dtype=np.float32).tobytes(),
    },
  )
  assert list(pth.read(tmp_path / 'x.pth')) == ['w']


def test_other_content_of_a_training_run_is_skipped(tmp_path):
  tensor = Tensor(Storage(F32, '0', 12), 0, (3, 4), (4, 1))
  model = pickling.dumps({'w': tensor}, 'state_dict')[2:-1]
  rest = pickle.dumps(
    {
      'epoch': 4,
      'optimizer': {
        'state': {0: {'step': 2**40, 'eps': 1e-30}},
        'param_groups': [
          {'lr': 1e-4, 'betas': (0.9, 0.999), 'foreach': None, 'amsgrad': False}
        ],
      },
    },
    2,
  )
  # {**model, 'rest': rest}: both pickles, one inside the other.
  data = b'\x80\x02' + model + b'X\x04\x00\x00\x00rest' + rest[2:-1] + b's.'
  archive(
    tmp_path / 'x.pth',
    {'data.pkl': data, 'data/0': np.arange(12, dtype=np.float32).tobytes()},
  )
  got = pth.read(tmp_path / 'x.pth')
  assert list(got) == ['w'] and got['w'].read()[2, 3] == 11


def test_ema_weights_are_read_on_request(tmp_path):
  pth.write(tmp_path / 'x.pth', lazy({'w': np.ones(2)}), 'state_dict_ema')
  assert pth.read(tmp_path / 'x.pth', ema=True)['w'].read().tolist() == [1, 1]
  with pytest.raises(UserError) as error:
    pth.read(tmp_path / 'x.pth')
  assert error.value.value == tmp_path / 'x.pth'
  assert error.value.allowed == wrapped.KEYS
  pth.write(tmp_path / 'y.pth', lazy({'w': np.ones(2)}))
  with pytest.raises(UserError) as error:
    pth.read(tmp_path / 'y.pth', ema=True)
  assert (error.value.key, error.value.allowed) == ('--ema', 'false')
  assert str(tmp_path / 'y.pth') in str(error.value)


def test_a_file_truncated_anywhere_is_reported(tmp_path):
  pth.write(tmp_path / 'whole.pth', lazy(some_tensors()))
  whole = (tmp_path / 'whole.pth').read_bytes()
  path = tmp_path / 'x.pth'
  sizes = np.random.default_rng().integers(1, len(whole) - 1, 40)
  for size in (1, 2, 9, len(whole) - 1, *sizes):
    path.write_bytes(whole[:size])
    with pytest.raises(UserError) as error:
      pth.read(path)
    assert error.value.value == path


def test_any_flipped_byte_is_read_or_a_user_error(tmp_path):
  """Flips bytes of names, shapes and offsets; elements have no checksum."""
  pth.write(tmp_path / 'whole.pth', lazy(some_tensors()))
  whole = (tmp_path / 'whole.pth').read_bytes()
  rng = np.random.default_rng()
  path, refused = tmp_path / 'x.pth', 0
  for place in rng.integers(len(whole), size=300):
    damaged = bytearray(whole)
    damaged[place] ^= 1 << rng.integers(8)
    path.write_bytes(damaged)
    try:
      pth.read(path)
    except UserError:
      refused += 1
  assert refused > 30


@pytest.mark.parametrize(
  'data, allowed',
  [
    (b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.', None),
    (b'GGUF....', 'zip files of torch'),
    (b'', 'zip files of torch'),
  ],
)
def test_files_of_other_formats_are_named(tmp_path, data, allowed):
  (tmp_path / 'x.pth').write_bytes(data)
  with pytest.raises(UserError) as error:
    pth.read(tmp_path / 'x.pth')
  assert (error.value.value, error.value.allowed) == (
    tmp_path / 'x.pth',
    allowed,
  )


def test_a_missing_file_is_a_user_error(tmp_path):
  with pytest.raises(UserError) as error:
    pth.read(tmp_path / 'x.pth')
  assert error.value.value == tmp_path / 'x.pth'
  assert error.value.allowed == 'existing files'


def test_other_and_compressed_zip_files_are_refused(tmp_path):
  archive(tmp_path / 'x.pth', {'readme.txt': 'hello'})
  with pytest.raises(UserError) as error:
    pth.read(tmp_path / 'x.pth')
  assert error.value.key == 'data.pkl'
  assert error.value.value == tmp_path / 'x.pth'
  archive(
    tmp_path / 'y.pth', {'data.pkl': pickle.dumps({})}, zipfile.ZIP_DEFLATED
  )
  with pytest.raises(UserError) as error:
    pth.read(tmp_path / 'y.pth')
  assert error.value.value == tmp_path / 'y.pth'
  assert error.value.allowed == 'stored members'


def test_a_member_with_a_wrong_offset_is_refused(tmp_path):
  pth.write(tmp_path / 'x.pth', lazy({'w': np.ones(40)}))
  data = (tmp_path / 'x.pth').read_bytes()
  start = data.rindex(b'PK\x03\x04', 0, data.index(b'archive/data/0'))
  with open(tmp_path / 'x.pth', 'r+b') as file:
    file.seek(start)
    file.write(b'xx')
  with pytest.raises(UserError) as error:
    pth.read(tmp_path / 'x.pth')
  assert error.value.key == 'archive/data/0'
  assert error.value.value == tmp_path / 'x.pth'
  assert error.value.allowed == 'a local header'


def test_an_unsupported_dtype_is_refused(tmp_path):
  with pytest.raises(UserError) as error:
    pth.write(
      tmp_path / 'x.pth', lazy({'w': np.zeros(2, ml_dtypes.float8_e4m3fn)})
    )
  assert error.value.key == '--dtype'
  assert error.value.value == ml_dtypes.float8_e4m3fn
  assert np.float32 in error.value.allowed and '.pth' in str(error.value)


def test_neither_torch_nor_an_unpickler_is_needed(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  monkeypatch.setattr(pickle, 'Unpickler', None)
  monkeypatch.setattr(pickle, 'loads', None)
  pth.write(tmp_path / 'x.pth', lazy({'w': np.ones(2)}))
  assert pth.read(tmp_path / 'x.pth')['w'].read().tolist() == [1, 1]
