"""Devices that are not here: what can be asked for, and what is said."""

import pytest

from sana_jax.errors import UserError
from sana_jax.sharding import topologies


class Device:
  platform = 'tpu'


@pytest.mark.parametrize('name', [
  'h300:1', 'h200:2x2', 'v5e', 'v5e:4', 'v5e:4y4', ''])
def test_an_unknown_topology_is_one_sentence(name):
  with pytest.raises(UserError, match='is no (topology of|chip that is)'):
    topologies.devices(name)


@pytest.mark.parametrize('name, said', [
  ('v5e:2x2', r"libtpu; install it with pip install 'sana_jax\[tpu\]'"),
  ('h200:1x1x8', r"jax_cuda13_plugin; install .*'sana_jax\[gpu\]'")])
def test_the_missing_compiler_is_named(name, said, monkeypatch):
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(UserError, match=said):
    topologies.devices(name)


def test_a_mesh_asks_for_no_more_than_there_is(monkeypatch):
  monkeypatch.setattr(topologies, 'devices', lambda _: [Device()] * 4)
  with pytest.raises(UserError, match='v5e:2x2 has 4 devices; .* asks for 8'):
    topologies.mesh('v5e:2x2', {'data': 2, 'sequence': 4})
