"""Meshes fit the devices, or one sentence says why not."""

import jax
from jax.sharding import AxisType
import pytest

from sana_jax.errors import UserError
from sana_jax.sharding.mesh import batch_shard, batch_spec, make_mesh


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


@pytest.mark.parametrize('shape, said', [
    ({'data': 3, 'fsdp': -1}, 'data=3, fsdp=-1.*must divide.* 8'),
    ({'data': 4}, 'data=4.*must be.* 8'),
    ({'data': -1, 'fsdp': -1}, 'at most one is -1'),
    ({'data': 8, 'fsdp': 0}, r'change mesh\.fsdp'),
    ({'model': 8}, 'axes model; allowed are data, fsdp, tensor, sequence'),
])
def test_sizes_that_do_not_fit_are_told(shape, said):
  with pytest.raises(UserError, match=said):
    make_mesh(shape)


def test_one_process_reads_the_whole_batch():
  assert batch_shard(make_mesh({'data': 2, 'tensor': 4}), 6) == (0, 1)
  assert batch_shard(make_mesh({'tensor': 8}), 3) == (0, 1)


@pytest.mark.parametrize('size, fits', [(12, 8), (3, 8), (21, 16)])
def test_a_batch_that_does_not_split_is_told(size, fits):
  with pytest.raises(UserError, match=f'batch_size={size}.*such as {fits}'):
    batch_shard(make_mesh({'data': 2, 'fsdp': 4}), size)
