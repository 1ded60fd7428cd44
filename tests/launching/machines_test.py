"""Machines of a topology, and errors for invalid ones."""

import math
import re

import pytest

from sana_jax.analysis import chips
from sana_jax.errors import UserError
from sana_jax.launching import machines

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  'name, slices, hosts, devices',
  [
    # xpk's table of slices: 4 chips a machine, or the only one.
    ('v5e:1x1', 1, 1, 1),
    ('v5e:2x2', 1, 1, 4),
    ('v5e:4x4', 1, 4, 4),
    ('v6e:16x16', 1, 64, 4),
    ('v6e:16x16@4', 4, 64, 4),
    ('v4:2x2x1', 1, 1, 4),
    ('v5p:4x4x8', 1, 32, 4),
    ('v5p:8x8x16', 1, 256, 4),
    ('tpu7x:2x2x2', 1, 2, 4),
    ('h200:1x8x8', 1, 8, 8),
    ('b200:2x4x8', 1, 8, 8),
    ('a100:1x1x4', 1, 1, 4),
    ('cpu:2x4', 1, 2, 4),
    ('cpu:1x1', 1, 1, 1),
  ],
)
def test_numbers_of_processes_and_devices(name, slices, hosts, devices):
  found = machines.parse(name)
  assert (found.slices, found.hosts, found.devices) == (slices, hosts, devices)
  assert found.processes == slices * hosts
  if found.kind != 'cpu':  # As sana-jax plan counts them.
    assert found.chips == chips.parse(name).chips


@pytest.mark.parametrize(
  'name, allowed',
  [
    ('v5:4x4', (*chips.CHIPS, 'cpu')),
    ('gpu:2x4', (*chips.CHIPS, 'cpu')),
    ('cpu', 'cpu:PROCESSESxDEVICES'),
    ('cpu:0x4', 'cpu:PROCESSESxDEVICES'),
    ('cpu:2x65', 'cpu:PROCESSESxDEVICES'),
    ('cpu:2x4x1', 'cpu:PROCESSESxDEVICES'),
    ('v5e:3x5', [(2, 4), (4, 4), (4, 8)]),
    ('h200:1x2x16', range(1, 9)),
  ],
)
def test_an_invalid_name_is_a_one_line_error(name, allowed):
  with pytest.raises(UserError) as error:
    machines.parse(name)
  assert error.value.key == '--topology' and error.value.value == name
  assert error.value.allowed == allowed
  assert '\n' not in str(error.value)


def test_similar_slices_have_a_similar_size():
  with pytest.raises(UserError) as error:
    machines.parse('v5p:8x4x4')
  assert (4, 4, 8) in error.value.allowed


def test_sizes_of_another_number_are_refused():
  with pytest.raises(UserError, match='v5e:4'):
    machines.parse('v5e:4')


def test_every_slice_is_supported_by_plan():
  # Sizes of xpk's table for v4, all of which are available.
  for size in (
    '2x2x1',
    '2x2x2',
    '2x2x4',
    '2x4x4',
    '4x4x4',
    '4x4x8',
    '4x8x8',
    '8x8x8',
    '8x8x12',
    '8x8x16',
  ):
    assert machines.parse(f'v4:{size}').grid == size
  for chip, dimensions in (('v5e', 2), ('v5p', 3)):
    for shape in machines.shapes(dimensions):
      assert math.prod(shape) <= 1024
      found = machines.parse(f'{chip}:{"x".join(map(str, shape))}')
      assert found.shape == shape


def test_every_chip_of_plan_has_names():
  assert set(machines.TPUS) == set(chips.TPUS)
  assert set(machines.GPUS) == set(chips.GPUS)
  assert not [n for n in machines.TPUS.values() if re.search(r'[^\w-]', n.gke)]
