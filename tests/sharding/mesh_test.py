"""Meshes fit the devices, or a one-line error explains why not."""

from unittest import mock

import jax
from jax.sharding import AxisType
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.sharding.mesh import (
  batch_rows,
  batch_spec,
  check_batch,
  make_mesh,
  place_rows,
)

pytestmark = pytest.mark.fast


def test_minus_one_takes_the_devices_that_are_left():
  mesh = make_mesh({'fsdp': 4, 'data': -1})
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 4}
  assert mesh.axis_names == ('data', 'fsdp')  # The order is ours.
  assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
  assert batch_spec(mesh) == jax.P(('data', 'fsdp'))


def test_an_empty_shape_is_data_parallel():
  assert dict(make_mesh({}).shape) == {'data': 8}


def test_a_mesh_may_use_some_devices():
  mesh = make_mesh({'data': -1}, jax.devices()[:2])
  assert dict(mesh.shape) == {'data': 2}
  assert list(mesh.devices.flat) == jax.devices()[:2]


@pytest.mark.parametrize(
  'shape, key, value',
  [
    ({'data': 3, 'fsdp': -1}, 'mesh', None),
    ({'data': 4}, 'mesh', None),
    ({'data': -1, 'fsdp': -1}, 'mesh.data', None),
    ({'data': 8, 'fsdp': 0}, 'mesh.fsdp', None),
    ({'model': 8}, 'mesh', 'model'),
  ],
)
def test_sizes_that_do_not_fit_raise(shape, key, value):
  with pytest.raises(UserError) as error:
    make_mesh(shape)
  assert error.value.key == key
  assert error.value.value == (value or shape)


def test_slices_lie_one_after_the_other_along_data():
  mesh = make_mesh({'slices': 2, 'fsdp': -1, 'tensor': 2})
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}
  ids = [[d.id for d in part.flat] for part in mesh.devices]
  assert sorted(ids[0]) == [0, 1, 2, 3] and sorted(ids[1]) == [4, 5, 6, 7]
  assert dict(make_mesh({'slices': 4, 'data': 2}).shape) == {'data': 8}


def test_missing_slices_raise():
  with pytest.raises(UserError) as error:
    make_mesh({'slices': 3})
  assert (error.value.key, error.value.value) == ('mesh.slices', 3)


def chips(count, platform, kind):
  """Devices of a pod, eight a host; JAX calls each GPU host a slice."""
  return [
    mock.NonCallableMock(
      spec=jax.Device,
      id=i,
      platform=platform,
      device_kind=kind,
      process_index=i // 8,
      slice_index=i // 8,
    )
    for i in range(count)
  ]


def test_hosts_with_gpus_make_one_mesh():
  gpus = chips(32, 'gpu', 'NVIDIA H200')
  for shape, sizes in [
    ({'data': -1}, (32,)),
    ({'fsdp': -1, 'sequence': 4}, (8, 4)),
    ({'data': 4, 'fsdp': -1}, (4, 8)),
  ]:
    mesh = make_mesh(shape, gpus[::-1])
    assert mesh.devices.shape == sizes
    # Neighbours are of one host.
    assert [d.id for d in mesh.devices.flat] == list(range(32))
  assert make_mesh({'slices': 4, 'fsdp': -1}, gpus).devices.shape == (4, 8)


def test_several_tpu_slices_require_mesh_slices():
  with pytest.raises(UserError) as error:
    make_mesh({'fsdp': -1}, chips(16, 'tpu', 'TPU v5p'))
  assert (error.value.key, error.value.allowed) == ('mesh.slices', (2,))


def test_one_process_reads_the_whole_batch():
  for shape, size in [({'data': 2, 'tensor': 4}, 6), ({'tensor': 8}, 3)]:
    mesh = make_mesh(shape)
    rows = batch_rows(mesh, size)
    assert rows.tolist() == list(range(size))
    x = np.random.default_rng().normal(size=(size, 3))
    placed = place_rows({'x': x}, rows, mesh, size)['x']
    assert placed.sharding == jax.NamedSharding(mesh, batch_spec(mesh))
    np.testing.assert_array_equal(placed, x.astype(np.float32))


@pytest.mark.parametrize(
  'ours, rows',
  [([0, 1], [0, 1]), ([0, 4], [0, 1, 4, 5]), ([3, 6, 7], [2, 3, 6, 7])],
)
def test_a_process_reads_the_rows_of_its_devices_wherever_they_lie(
  ours, rows, monkeypatch
):
  # Devices 2k and 2k + 1 hold rows 2k and 2k + 1, tensor shards of them.
  mesh = make_mesh({'fsdp': 4, 'tensor': 2})
  own = [mesh.devices.flat[i] for i in ours]
  monkeypatch.setattr(
    jax.NamedSharding,
    'addressable_devices_indices_map',
    lambda sharding, shape: {
      device: index
      for device, index in sharding.devices_indices_map(shape).items()
      if device in own
    },
  )
  assert batch_rows(mesh, 8).tolist() == rows


@pytest.mark.parametrize('size, fits', [(12, 8), (3, 8), (21, 16)])
def test_a_batch_that_does_not_split_raises(size, fits):
  with pytest.raises(UserError, match=str(fits)) as error:
    check_batch(make_mesh({'data': 2, 'fsdp': 4}), size)
  assert (error.value.key, error.value.value) == ('batch_size', size)
  assert error.value.allowed == 'multiples of 8'
