"""Topologies of unattached devices, and errors for invalid ones."""

import pytest

from sana_jax.analysis import chips, topologies
from sana_jax.errors import UserError


class Device:
  platform = 'tpu'


@pytest.mark.parametrize(
  'name', ['h300:1', 'h200:2x2', 'v5e', 'v5e:4', 'v5e:4y4', '']
)
def test_an_unknown_topology_is_a_one_line_error(name):
  with pytest.raises(UserError) as error:
    topologies.devices(name)
  assert error.value.key == 'topology'
  assert error.value.value in (name, name.partition(':')[0])


@pytest.mark.parametrize(
  'name, extra, package',
  [
    ('v5e:2x2', 'tpu', 'libtpu'),
    ('h200:1x1x8', 'gpu', 'jax_cuda13_plugin'),
  ],
)
def test_the_missing_compiler_is_named(name, extra, package, monkeypatch):
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(UserError) as error:
    topologies.devices(name)
  assert (error.value.key, error.value.value) == (extra, package)


def test_a_mesh_larger_than_the_topology_is_an_error(monkeypatch):
  monkeypatch.setattr(topologies, 'devices', lambda _: [Device()] * 4)
  with pytest.raises(UserError) as error:
    topologies.mesh('v5e:2x2', {'data': 2, 'sequence': 4})
  assert (error.value.key, error.value.value) == ('mesh', 8)
  assert error.value.allowed == 'at most 4'


@pytest.mark.tpu_compiler
@pytest.mark.parametrize(
  'name, shape',
  [
    # jax.make_mesh refuses the first, which cuts the 8 into 4 x 2.
    ('v5p:4x4x8', {'data': 2, 'fsdp': 64}),
    ('v5e:4x4@2', {'fsdp': 16, 'slices': 2}),
    ('tpu7x:2x2x1', {'fsdp': 8}),
  ],
)
def test_a_mesh_is_made_of_unattached_chips(name, shape):
  mesh = topologies.make_mesh(shape, topologies.devices(name))
  assert mesh.size == chips.parse(name).devices
  assert len({d.id for d in mesh.devices.flat}) == mesh.size
  if 'slices' in shape:
    assert [{d.slice_index for d in row} for row in mesh.devices] == [{0}, {1}]


@pytest.mark.tpu_compiler
@pytest.mark.parametrize('name', ['v4:2x2x2', 'v5e:1x1', 'v6e:2x2'])
def test_a_chip_has_the_number_of_devices_in_the_table(name):
  assert len(topologies.devices(name)) == chips.parse(name).devices
